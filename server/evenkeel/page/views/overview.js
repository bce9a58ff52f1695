// The overview: spare capacity, who uses the capacity, and the latest refusals, on one screen.

import { activity } from '../lib/activity.js';
import { poll, read } from '../lib/api.js';
import { h, setAttr, setText, show } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { link, patch } from '../lib/router.js';
import { dataTable, linked, pager, PAGE_SIZE, text } from '../lib/table.js';
import { empty, levelOf, loadBar, searchField, section, stat, viewHeading } from '../lib/ui.js';
import { fullestTable } from './limits.js';
import { burnRatesTable } from './quotas.js';
import { refusalsTable } from './why.js';

/** Number of rows in each small table. */
const ASIDE_ROWS = 6;
const FIRST_POOL = 'evenkeel admit --cluster llm --candidate 127.0.0.1:8000 --hold 30s';

export function create() {
  const hero = headline();
  const pools = poolsPart();
  const flow = activity(null);
  const size = { page_size: ASIDE_ROWS };
  const asides = [
    aside('Closest to their limit', ['All limits', link('/limits')], (signal) => read('limits/fullest', size, signal), (data) => data.keys, fullestTable({ short: true })),
    aside('Running out soonest', ['All quotas', link('/quotas')], (signal) => read('quotas/burn-rates', size, signal), (data) => data.burn_rates, burnRatesTable({ short: true })),
    aside('Most used today', ['All usage', link('/usage')], (signal) => read('usage', { by: 'consumer', ...size }, signal), (data) => data.rows, consumersTable()),
    aside('Last refusals', ['Explain a refusal', link('/why')], (signal) => read('refusals', size, signal), (data) => data.refusals, refusalsTable({ short: true })),
  ];
  const element = h('div', { class: 'view' }, hero.element, pools.element, flow.element,
    h('div', { class: 'grid' }, asides.map((one) => one.element)));
  return {
    title: 'Overview', element, watch: () => ({}),
    update(params) {
      pools.update(params);
      flow.update(params);
    },
    live(name, data) {
      if (name !== 'overview') return;
      hero.set(data);
      pools.live(data);
    },
    refresh() {
      flow.refresh();
      asides.forEach((one) => one.refresh());
    },
    destroy() {
      flow.destroy();
      pools.destroy();
      asides.forEach((one) => one.destroy());
    },
  };
}

/** Shows the state in words, followed by its figures. */
function headline() {
  const heading = viewHeading('Reading …');
  const words = h('p', { class: 'lead' });
  const fill = h('span', { class: 'meter-fill' });
  const meter = h('div', { class: 'meter', role: 'meter', 'aria-label': 'Places taken', 'aria-valuemin': '0' }, fill);
  const stats = {
    flight: stat('In flight'), room: stat('Room left'), admitted: stat('Admitted'), refused: stat('Refused'),
    store: stat('Store', { href: link('/cluster') }), sidecars: stat('Sidecars', { href: link('/cluster') }),
  };
  const element = h('header', { class: 'panel hero' },
    h('div', { class: 'hero-words' }, heading, words, meter), h('dl', { class: 'stats' }, Object.values(stats).map((one) => one.element)));
  return {
    element,
    set(data) {
      const { totals, last_minute: minute, store } = data;
      const bounded = totals.capacity !== null && totals.capacity !== undefined;
      const { room } = totals;
      const share = bounded && totals.capacity > 0 ? totals.in_flight / totals.capacity : null;
      setText(heading, answer(totals, share));
      setText(words, totals.pools
        ? `${f.plural(totals.pools, 'pool')}, ${f.plural(totals.endpoints, 'endpoint')}${totals.drained ? ` (${f.int(totals.drained)} drained)` : ''}, ${f.plural(totals.holders, 'holder')}${totals.pools > 1 ? ' in the pool with most' : ''}`
        : 'No gateway has sent a request yet.');
      show(meter, bounded && totals.capacity > 0);
      setAttr(meter, 'aria-valuemax', totals.capacity ?? 0);
      setAttr(meter, 'aria-valuenow', Math.min(totals.in_flight, totals.capacity ?? 0));
      setAttr(meter, 'aria-valuetext', bounded ? `${f.int(totals.in_flight)} of ${f.int(totals.capacity)}` : null);
      setAttr(meter, 'data-level', levelOf(share));
      fill.style.width = `${Math.min(100, (share ?? 0) * 100)}%`;
      stats.flight.set(f.int(totals.in_flight), !totals.pools ? '' : bounded ? `of ${f.int(totals.capacity)}` : 'no cap set');
      stats.room.set(!totals.pools ? '–' : room === null ? '∞' : f.int(room), bounded && totals.capacity > 0 ? `${f.percent(room / totals.capacity)} free` : '', totals.pools && room === 0 ? 'bad' : share > 0.85 ? 'warn' : '');
      if (minute) {
        stats.admitted.set(`${f.rate(minute.admitted / 60)}/s`, 'in the last minute');
        stats.refused.set(f.int(minute.refused), refusedBy(minute), minute.refused ? 'warn' : '');
      } else {
        for (const unknown of [stats.admitted, stats.refused]) unknown.set('–', 'unknown');
      }
      stats.store.set(store.up ? 'up' : 'down', `${storeName(store.kind)}, ${data.age_ms < 1000 ? 'just read' : `read ${f.duration(data.age_ms)} ago`}`, store.up ? 'ok' : 'bad');
      stats.sidecars.set(totals.sidecars === null ? '–' : f.int(totals.sidecars), data.sidecar.name ? `this is ${data.sidecar.name}` : '');
    },
  };
}

const storeName = (kind) => ({ memory: 'embedded', redis: 'Redis', redis_cluster: 'Redis Cluster' })[kind] ?? kind;

function answer(totals, share) {
  const { room } = totals;
  if (!totals.pools) return 'No pools yet';
  if (room === null) return `${f.plural(totals.in_flight, 'request')} in flight, without a cap`;
  if (room === 0) return 'No room: every place is taken';
  return share > 0.85 ? `Little room: ${f.plural(room, 'place')} left` : `Room for ${f.int(room)} more request${room === 1 ? '' : 's'}`;
}

const REFUSALS = [['pool_full', 'pool full'], ['limit', 'limit'], ['quota', 'quota'], ['no_endpoints', 'no endpoints'], ['store_unavailable', 'store down']];

function refusedBy(minute) {
  const by = REFUSALS.filter(([key]) => minute[key] > 0).sort(([a], [b]) => minute[b] - minute[a]);
  return by.length ? by.map(([key, words]) => `${words} ${f.int(minute[key])}`).join(', ') : 'in the last minute';
}

const poolHref = (pool) => link('/pool', { cluster: pool.cluster, route: pool.route });

function poolsPart() {
  const search = searchField('Search pools', (value) => patch({ search: value }, { replace: true }));
  const part = section('Pools', { actions: search.element, wide: true });
  const table = dataTable({
    caption: 'Pools', key: (pool) => `${pool.cluster}\n${pool.route}`, defaultSort: 'in_flight', emptyState: poolsEmpty(),
    columns: [
      { title: 'Pool', head: true, sort: 'name', order: 'ascending', make: linked(f.poolName, poolHref) },
      { title: 'Load', wide: true, make: barCell },
      { title: 'In flight', num: true, sort: 'in_flight', order: 'descending', make: text((p) => (p.capacity === null ? f.int(p.in_flight) : `${f.int(p.in_flight)} of ${f.int(p.capacity)}`)) },
      { title: 'Room', num: true, sort: 'room', order: 'ascending', make: text((p) => (p.room === null ? 'no cap' : f.int(p.room))) },
      { title: 'Endpoints', make: text(endpointWords) },
      { title: 'Imbalance', num: true, sort: 'imbalance', order: 'descending', make: text((p) => f.percent(p.imbalance), () => 'Share of the requests in flight that would have to move for an even load') },
      { title: 'Holders', num: true, make: text((p) => f.int(p.holders)) },
    ],
  });
  const pages = pager('pools');
  part.body.append(table.element, pages.element);
  let params = {};
  const own = () => Boolean(params.sort || params.search || params.page);
  const take = (data) => {
    part.fail(null);
    table.set(data.pools, params.sort);
    pages.set(data.pools.length, data.total, data.next_page_token);
    show(search.element, data.total > 8 || Boolean(params.search));
  };
  // The stream contains the first pools in the default order. For any other order or page, poll.
  const load = (signal) => read('overview', { sort: params.sort, search: params.search, page_token: params.page, page_size: PAGE_SIZE }, signal);
  const polled = poll(load, take, part.fail, () => (own() ? 1500 : 3_600_000));
  return {
    element: part.element, destroy: polled.stop,
    update(next) {
      params = next;
      search.set(params.search ?? '');
      polled.refresh();
    },
    live(data) {
      if (own() || data.pools.length > PAGE_SIZE) {
        if (!own()) table.set(data.pools.slice(0, PAGE_SIZE), params.sort);
      } else take(data);
    },
  };
}

function barCell(td) {
  const bar = loadBar();
  td.append(bar.element);
  return (p) => bar.set(p.capacity === null ? null : p.capacity ? p.in_flight / p.capacity : 1);
}

function endpointWords(pool) {
  const parts = [pool.full ? `${f.int(pool.full)} full` : '', pool.drained ? `${f.int(pool.drained)} drained` : '', pool.current === false ? 'figures are local' : ''];
  return [f.int(pool.endpoints), ...parts.filter(Boolean)].join(', ');
}

const poolsEmpty = () => empty('No pools to show. A pool appears once a gateway has sent a request for it, or the configuration names it. To try it:', FIRST_POOL);

function consumersTable() {
  return dataTable({
    caption: 'Consumers by tokens used today', key: (row) => row.consumer, emptyState: empty('No usage today (UTC).'),
    columns: [
      { title: 'Consumer', head: true, make: linked((r) => f.named(r.consumer), (r) => link('/usage', { consumer: r.consumer || '(none)', by: 'model' })) },
      { title: 'Requests', num: true, make: text((r) => f.compact(r.requests), (r) => f.int(r.requests)) },
      { title: 'Tokens', num: true, make: text((r) => f.compact(r.tokens.total), (r) => f.int(r.tokens.total)) },
      { title: 'Cost', num: true, make: text((r) => f.money(r.cost)) },
    ],
  });
}

function aside(title, [more, href], load, rows, table) {
  const part = section(title, { actions: h('a', { href, text: more }) });
  part.body.append(table.element);
  const take = (data) => {
    part.fail(null);
    table.set(rows(data));
  };
  const polled = poll(load, take, part.fail, () => 4000);
  polled.refresh();
  return { element: part.element, refresh: polled.refresh, destroy: polled.stop };
}
