// The sidecars and their store, the drained endpoints, and the repairs.

import { actionButton, undrainEndpoint } from '../lib/actions.js';
import { poll, read } from '../lib/api.js';
import { causeWords, gatewayName } from '../lib/attention.js';
import { h } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { current, link } from '../lib/router.js';
import { PAGE_SIZE, dataTable, linked, pager, text } from '../lib/table.js';
import { badge, empty, section, timeOf, viewHeading } from '../lib/ui.js';

const STORES = { memory: 'embedded', redis: 'Redis', redis_cluster: 'Redis Cluster' };

const timeCell = (of) => (td) => {
  const time = timeOf();
  td.append(time.element);
  return (row) => time.set(of(row));
};

const badgeCell = (of) => (td) => {
  const mark = badge();
  td.append(mark.element);
  return (row) => mark.set(...of(row));
};

export function create() {
  const parts = [sidecars(), gateways(), drains(() => refresh()), repairs()];
  const element = h('div', { class: 'view' }, h('header', { class: 'view-head' }, viewHeading('Cluster'),
    h('p', { class: 'lead', text: 'The sidecars that share one store. Any of them returns the same figures.' })), parts.map((one) => one.element));
  const refresh = () => parts.forEach((one) => one.refresh());
  return { title: 'Cluster', element, watch: () => ({}), refresh, update: refresh, destroy: () => parts.forEach((one) => one.stop()) };
}

/** Returns a section with a table that is read again every two seconds. */
function part({ title, note, path, pages, prefix = '', table, rows }) {
  const shown = section(title, { wide: true, note });
  shown.body.append(table.element, ...(pages ? [pages.element] : []));
  const take = (data) => {
    shown.fail(null);
    table.set(rows(data));
    pages?.set(rows(data).length, data.total, data.next_page_token);
  };
  const parameters = () => (pages ? { page_size: PAGE_SIZE, page_token: current().params[`${prefix}page`] } : {});
  const polled = poll((signal) => read(path, parameters(), signal), take, shown.fail, () => 2000);
  return { element: shown.element, refresh: polled.refresh, stop: polled.stop };
}

function alive(sidecar) {
  if (!sidecar.alive) return ['stopped', 'bad'];
  return sidecar.stopping ? ['stopping', 'warn'] : ['alive', 'ok'];
}

function sidecars() {
  // The revision of most sidecars. A sidecar with another revision enforces other limits.
  let usual = '';
  const table = dataTable({
    caption: 'Sidecars', key: (s) => s.id, emptyState: empty('No sidecar has reported yet.'),
    columns: [
      { title: 'Sidecar', head: true, make: text((s) => s.name || s.id, (s) => s.id) },
      { title: 'State', make: badgeCell(alive) },
      { title: 'Store', make: badgeCell((s) => [`${STORES[s.store] ?? s.store} ${s.store_up ? 'up' : 'down'}`, s.store_up ? 'ok' : 'bad']) },
      { title: 'Store lost', num: true, make: text((s) => (s.store_losses ? (s.store_losses === 1 ? 'once' : `${f.int(s.store_losses)} times`) : 'never')) },
      { title: 'Holders', num: true, make: text((s) => f.int(s.holders)) },
      { title: 'Admitted', num: true, make: text((s) => f.compact(s.admitted), (s) => `${f.int(s.admitted)} since its start`) },
      { title: 'Refused', num: true, make: text((s) => f.compact(s.refused), (s) => `${f.int(s.refused)} since its start`) },
      { title: 'Limits', make: badgeCell((s) => (s.limits_revision === usual ? [s.limits_revision.slice(0, 8), ''] : [`${s.limits_revision.slice(0, 8)}, differs`, 'warn'])) },
      { title: 'Certificate', make: badgeCell(certificate) },
      { title: 'Version', make: text((s) => s.version) },
      { title: 'Started', num: true, make: timeCell((s) => s.started_at_ms) },
      { title: 'Last seen', num: true, make: timeCell((s) => s.seen_at_ms) },
    ],
  });
  const rows = (data) => {
    const counted = new Map();
    for (const s of data.sidecars.filter((one) => one.alive)) counted.set(s.limits_revision, (counted.get(s.limits_revision) ?? 0) + 1);
    usual = [...counted].sort((a, b) => b[1] - a[1])[0]?.[0] ?? '';
    return data.sidecars;
  };
  return part({ title: 'Sidecars', path: 'sidecars', table, rows, note: 'Sidecars that were alive within the last ten minutes.' });
}

/** A certificate is marked as urgent in its last days, as at the top of the page. */
const CERTIFICATE_SOON_MS = 7 * 86_400_000;

function certificate({ certificate_expires_at_ms: at }) {
  if (!at) return ['no TLS', ''];
  const left = at - Date.now();
  if (left <= 0) return ['expired', 'bad'];
  return [`${f.duration(left)} left`, left < CERTIFICATE_SOON_MS ? 'warn' : ''];
}

function gatewayState(gateway) {
  if (gateway.unlimited?.now) return ['not limited', 'bad'];
  if (gateway.local?.now) return ['own sidecar only', 'warn'];
  if (gateway.workers) return ['connected', 'ok'];
  return gateway.lost_at_ms ? [`lost ${f.relative(gateway.lost_at_ms)}`, 'warn'] : ['ended', ''];
}

/** Returns a period in words, such as `14:02–14:05: it reached no sidecar; 12 requests`. */
const gapWords = (gap, why) => (gap
  ? `${f.minute(gap.since_at_ms)}–${gap.now ? 'now' : f.minute(gap.last_at_ms)}: ${why(gap)}; ${f.plural(gap.requests, 'request')}` : '–');

function gateways() {
  const table = dataTable({
    caption: 'Gateways', key: (g) => `${g.gateway}\n${g.sidecars.join('\n')}`, emptyState: empty('No gateway is connected.'),
    columns: [
      { title: 'Gateway', head: true, make: text(gatewayName) },
      { title: 'State', make: badgeCell(gatewayState) },
      { title: 'Workers', num: true, make: text((g) => f.int(g.workers)) },
      { title: 'Sidecar', make: text((g) => g.sidecars.join(', ')) },
      { title: 'Last not limited', make: text((g) => gapWords(g.unlimited, causeWords)) },
      { title: 'Last without the store', make: text((g) => gapWords(g.local, () => 'its own sidecar decided')) },
    ],
  });
  const note = 'Gateways that were connected within the last ten minutes, and when their requests last passed without limits.';
  return part({ title: 'Gateways', path: 'gateways', pages: pager('gateways', { prefix: 'g' }), prefix: 'g', table, rows: (data) => data.gateways, note });
}

const poolOf = (drain) => drain.pool ?? {};

function drains(done) {
  const table = dataTable({
    caption: 'Endpoints drained', key: (d) => `${d.endpoint}\n${poolOf(d).cluster ?? ''}\n${poolOf(d).route ?? ''}`,
    emptyState: empty('No endpoint is drained. To take one out of the choice:', 'evenkeel drain 127.0.0.1:8001 --cluster llm'),
    columns: [
      { title: 'Endpoint', head: true, make: text((d) => d.endpoint) },
      { title: 'In', make: text((d) => (poolOf(d).cluster ? f.poolName(poolOf(d)) : 'every pool')) },
      { title: 'By', make: text((d) => d.who) },
      { title: 'Since', num: true, make: timeCell((d) => d.at_ms) },
      { title: 'Why', make: text((d) => d.note || '–') },
      { title: '', label: 'Actions', make: (td) => {
        let row = null;
        const button = actionButton('Undrain …', () => undrainEndpoint(row, done));
        td.append(button.element);
        return (d) => {
          row = d;
          button.set('Undrain …', d.endpoint);
        };
      } },
    ],
  });
  return part({ title: 'Drained endpoints', path: 'drains', table, rows: (data) => data.drains });
}

const KINDS = {
  restored: 'restored', dropped: 'dropped', moved: 'moved to another endpoint', reaped: 'reaped: the holder died', recounted: 'recounted',
};

function repairs() {
  const table = dataTable({
    caption: 'Last repairs', key: (r) => `${r.at_ms}/${r.kind}/${r.holder}/${r.sidecar}/${r.pool?.cluster}/${r.pool?.route}`,
    emptyState: empty('No repairs on record: every table agreed with its gateways.'),
    columns: [
      { title: 'When', head: true, make: timeCell((r) => r.at_ms) },
      { title: 'What', make: text((r) => `${f.plural(r.count, 'lease')} ${KINDS[r.kind] ?? r.kind}`, (r) => r.kind) },
      { title: 'Pool', make: linked((r) => (r.pool ? f.poolName(r.pool) : '–'), (r) => link('/pool', { cluster: r.pool?.cluster, route: r.pool?.route })) },
      { title: 'Holder', make: text((r) => r.holder || '–') },
      { title: 'By sidecar', make: text((r) => r.sidecar) },
    ],
  });
  return part({ title: 'Last repairs', path: 'repairs', pages: pager('repairs'), table, rows: (data) => data.repairs, note: 'Where a table of requests in flight differed from what gateways hold.' });
}
