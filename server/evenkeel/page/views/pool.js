// One pool: the requests in flight and the cap of each endpoint, the pool's holders, and its activity.

import { actionButton, drainEndpoint, undrainIn } from '../lib/actions.js';
import { activity } from '../lib/activity.js';
import { poll, read } from '../lib/api.js';
import { h, setText, show } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { link, patch } from '../lib/router.js';
import { dataTable, pager, PAGE_SIZE, text } from '../lib/table.js';
import { badge, empty, loadBar, searchField, section, stat, viewHeading } from '../lib/ui.js';

export function create({ rewatch }) {
  let params = {};
  // True while no sidecar knows the pool. The view then polls, because the sidecar would reject a watch.
  let unknown = false;
  // True if the sidecar rejected the watch for another reason. The view then polls and shows the error.
  let refused = false;
  const pool = () => ({ cluster: params.cluster ?? '', route: params.route ?? '' });
  const heading = viewHeading('Pool');
  const stats = { flight: stat('In flight'), unread: stat('Unread tokens'), hits: stat('Prefix hits'), room: stat('Room left'), full: stat('Endpoints'), imbalance: stat('Imbalance'), holders: stat('Holders') };
  const endpoints = endpointsPart(pool, () => refresh());
  const holders = holdersPart(pool);
  const flow = activity(pool());
  const element = h('div', { class: 'view' },
    h('header', { class: 'panel hero slim' }, h('div', { class: 'hero-words' },
      h('p', { class: 'crumbs' }, h('a', { href: link('/'), text: 'All pools' })), heading),
    h('dl', { class: 'stats' }, Object.values(stats).map((one) => one.element))),
    endpoints.element, flow.element, holders.element);
  const query = () => ({ ...pool(), sort: params.sort, search: params.search, page_size: PAGE_SIZE, page_token: params.page });
  const known = (is) => {
    if (unknown !== is) return;
    unknown = !is;
    refused = false;
    for (const part of [flow, holders]) show(part.element, is);
    rewatch();
  };
  const take = (data) => {
    const p = data.pool;
    known(true);
    const bounded = p.capacity !== null;
    stats.flight.set(f.int(p.in_flight), bounded ? `of ${f.int(p.capacity)}` : 'no cap set');
    const byWork = p.policy === 'least_work';
    show(stats.unread.element, byWork);
    if (byWork) stats.unread.set(f.int(p.unread_tokens), 'of prompts, not read yet');
    const hits = p.hit_rate !== null;
    show(stats.hits.element, hits);
    if (hits) stats.hits.set(f.percent(p.hit_rate), `of prompts; ${f.percent(p.expected_hit_rate)} expected`);
    stats.room.set(p.room === null ? '∞' : f.int(p.room), p.drained ? 'drained endpoints not counted' : '', p.room === 0 ? 'bad' : '');
    stats.full.set(f.int(p.endpoints), [p.full ? `${f.int(p.full)} full` : 'none full', p.drained ? `${f.int(p.drained)} drained` : ''].filter(Boolean).join(', '), p.full ? 'warn' : '');
    stats.imbalance.set(f.percent(p.imbalance), 'to move for an even load');
    stats.holders.set(f.int(p.holders), p.current === false ? 'figures are local' : '');
    endpoints.set(data, params.sort);
  };
  const fail = (error) => {
    if (error.status === 404) known(false);
    endpoints.fail(error.status === 404 ? { message: 'no sidecar knows this pool. It appears once a gateway has sent a request for it, or the configuration names it' } : error);
  };
  const polled = poll((signal) => read('endpoints', query(), signal), take, fail, () => (unknown || refused ? 2000 : 3_600_000));
  const refresh = () => polled.refresh();
  return {
    title: 'Pool', element,
    watch: () => (unknown || refused ? {} : query()),
    update(next) {
      const same = next.cluster === params.cluster && (next.route ?? '') === (params.route ?? '');
      params = next;
      refused = false;
      this.title = `Pool ${f.poolName(pool())}`;
      setText(heading, f.poolName(pool()));
      endpoints.update(params);
      if (!same) {
        known(true);
        holders.refresh();
      }
      flow.update(params, pool());
      refresh();
    },
    live(name, data) {
      if (name === 'endpoints' && data.pool.cluster === params.cluster) take(data);
    },
    refused() {
      refused = true;
      refresh();
    },
    refresh() {
      refresh();
      flow.refresh();
      holders.refresh();
    },
    destroy() {
      polled.stop();
      flow.destroy();
      holders.destroy();
    },
  };
}

/** Returns the state of an endpoint in a word or two, and its severity. */
function state(endpoint) {
  if (endpoint.drained) return ['drained', 'warn'];
  if (!endpoint.listed) return ['left the pool', 'warn'];
  if (!endpoint.cap) return ['no cap', ''];
  if (endpoint.in_flight >= endpoint.cap) return ['full', 'bad'];
  return endpoint.in_flight / endpoint.cap >= 0.85 ? ['nearly full', 'warn'] : ['has room', 'ok'];
}

function endpointsPart(pool, done) {
  const search = searchField('Search addresses', (value) => patch({ search: value }, { replace: true }));
  const part = section('Endpoints', { actions: search.element, wide: true });
  let most = 1;
  const table = dataTable({
    caption: 'Endpoints of the pool', key: (e) => e.address, defaultSort: 'load',
    emptyState: empty('No endpoints to show. They come from the configuration, from DNS, or with the gateways\u2019 requests.', 'evenkeel pools'),
    columns: [
      { title: 'Endpoint', head: true, sort: 'address', order: 'ascending', make: text((e) => e.address) },
      { title: 'Load', wide: true, sort: 'load', order: 'descending', make: (td) => {
        const bar = loadBar();
        td.append(bar.element);
        return (e) => (e.cap ? bar.set(e.in_flight / e.cap) : bar.set(e.in_flight / most, 'unbounded'));
      } },
      { title: 'In flight', num: true, sort: 'in_flight', order: 'descending', make: text((e) => f.int(e.in_flight)) },
      { title: 'Unread', num: true, make: text((e) => (e.unread_tokens ? f.int(e.unread_tokens) : '–'), () => 'Prompt tokens that the endpoint has not read yet, in a pool that chooses by work') },
      { title: 'Prefix hits', num: true, make: text((e) => (e.hit_rate === null ? '–' : f.percent(e.hit_rate)), (e) => (e.hit_rate === null ? 'No response has stated cached tokens' : `Part of the latest prompts that came from the prefix cache; ${f.percent(e.expected_hit_rate)} were expected there`)) },
      { title: 'Cap', num: true, make: text((e) => (e.cap ? f.int(e.cap) : '–')) },
      { title: 'Room', num: true, sort: 'room', order: 'ascending', make: text((e) => (e.cap && e.listed && !e.drained ? f.int(Math.max(0, e.cap - e.in_flight)) : '–')) },
      { title: 'Weight', num: true, make: text((e) => f.rate(e.weight)) },
      { title: 'State', make: (td) => {
        const mark = badge();
        td.append(mark.element);
        return (e) => mark.set(...state(e));
      } },
      { title: '', label: 'Actions', make: (td) => {
        let row = null;
        const button = actionButton('Drain …', () => (row.drained ? undrainIn : drainEndpoint)({ pool: pool(), endpoint: row }, done));
        td.append(button.element);
        return (e) => {
          row = e;
          button.set(e.drained ? 'Undrain …' : 'Drain …', e.address);
        };
      } },
    ],
  });
  const pages = pager('endpoints');
  part.body.append(table.element, pages.element);
  return {
    element: part.element, fail: part.fail,
    update: (params) => search.set(params.search ?? ''),
    set(data, sort) {
      part.fail(null);
      most = Math.max(1, ...data.endpoints.map((e) => e.in_flight));
      table.set(data.endpoints, sort);
      pages.set(data.endpoints.length, data.total, data.next_page_token);
    },
  };
}

function holdersPart(pool) {
  const part = section('Holders', { wide: true, note: 'A holder is one gateway worker. Its requests in flight are leases; a silent holder loses them within two intervals.' });
  const table = dataTable({
    caption: 'Holders of the pool', key: (holder) => holder.holder, emptyState: empty('No holder is alive in this pool.'),
    columns: [
      { title: 'Holder', head: true, make: text((holder) => holder.holder) },
      { title: 'Leases', num: true, make: text((holder) => f.int(holder.leases)) },
      { title: 'Counts as dead', num: true, make: text((holder) => (holder.deadline_in_ms < 0 ? 'overdue' : `in ${f.duration(holder.deadline_in_ms)} without a KeepAlive`)) },
    ],
  });
  const pages = h('p', { class: 'muted' });
  part.body.append(table.element, pages);
  const take = (data) => {
    part.fail(null);
    table.set(data.holders);
    setText(pages, data.next_page_token ? `The first ${f.int(data.holders.length)} of ${f.int(data.total)}.` : '');
  };
  const polled = poll((signal) => read('holders', { ...pool(), page_size: 100 }, signal), take, part.fail, () => 4000);
  return { element: part.element, refresh: polled.refresh, destroy: polled.stop };
}
