// Charts of requests over the last minutes or hours: admitted requests, and refused requests by reason.

import { poll, read } from './api.js';
import { stackedChart } from './chart.js';
import { h, setText } from './dom.js';
import * as f from './format.js';
import { current, link } from './router.js';
import { choice, section } from './ui.js';

const ADMITTED = [
  { key: 'shared', label: 'from the shared table', colour: '--series-shared' },
  { key: 'local', label: 'from local knowledge', colour: '--series-local' },
  { key: 'open', label: 'chosen by the gateway', colour: '--series-open' },
];
const REFUSED = [
  { key: 'pool_full', label: 'pool full', colour: '--series-pool-full' },
  { key: 'limit', label: 'limit', colour: '--series-limit' },
  { key: 'quota', label: 'quota', colour: '--series-quota' },
  { key: 'no_endpoints', label: 'no endpoints', colour: '--series-no-endpoints' },
  { key: 'store_unavailable', label: 'store down', colour: '--series-store' },
];
const WORDS = { '15m': '15 min', '1h': '1 h', '6h': '6 h', '24h': '24 h', '48h': '48 h' };
const SPANS = Object.keys(WORDS);

const spanMs = (span) => Number.parseInt(span, 10) * (span.endsWith('m') ? 60_000 : 3_600_000);

/** Minimum elapsed time of the current step, in ms, before its rate is shown. */
const BEGUN_MS = 3000;

/** Creates the activity section of a view. `pool` is `{route, cluster}`, or null for all pools. */
export function activity(pool) {
  const spans = choice('Time span', SPANS.map((value) => ({ value, label: WORDS[value], href: '#' })));
  const part = section('Activity', { actions: spans.element, wide: true });
  const admitted = half('Admitted', ADMITTED);
  const refused = half('Refused', REFUSED);
  const table = stepsTable();
  part.body.append(h('div', { class: 'charts' }, admitted.element, refused.element), table.element);
  let wanted = { span: '15m', pool };

  const take = (data) => {
    part.fail(null);
    const steps = rates(data);
    admitted.set(data, steps, wanted.span);
    refused.set(data, steps, wanted.span);
    table.set(data);
  };
  const load = (signal) => {
    const of = wanted.pool ? { route: wanted.pool.route, cluster: wanted.pool.cluster } : {};
    return read('activity', { span_ms: spanMs(wanted.span), ...of }, signal);
  };
  const polled = poll(load, take, part.fail, () => (wanted.span.endsWith('m') || wanted.span === '1h' ? 4000 : 15_000));
  return {
    element: part.element,
    update(params, nextPool = pool) {
      const span = SPANS.includes(params.span) ? params.span : '15m';
      wanted = { span, pool: nextPool };
      const { path } = current();
      spans.set(span, (value) => link(path, { ...params, span: value === '15m' ? '' : value }));
      polled.refresh();
    },
    refresh: polled.refresh,
    destroy() {
      polled.stop();
      admitted.chart.destroy();
      refused.chart.destroy();
    },
  };
}

/**
 * Returns the times, and for each series a column of requests per second. The current step is averaged over its elapsed
 * part.
 */
function rates({ step_ms: length, steps }) {
  const times = steps.map((step) => step.at_ms);
  const seconds = times.map((from, at) => {
    const gone = at === steps.length - 1 ? Math.min(length, Math.max(0, Date.now() - from)) : length;
    return gone < Math.min(BEGUN_MS, length) ? null : gone / 1000;
  });
  // Add the end of the last step, so that the chart draws the whole step.
  times.push((times.at(-1) ?? 0) + length);
  const column = (key) => {
    const values = seconds.map((s, at) => (s === null ? null : steps[at][key] / s));
    return [...values, values.at(-1)];
  };
  return { times, column };
}

const sum = (steps, key) => steps.reduce((total, step) => total + step[key], 0);

function half(title, series) {
  const total = h('strong');
  const when = h('span', { class: 'muted' });
  let shown = null;
  const entries = series.map((one) => {
    const swatch = h('span', { class: 'swatch', 'aria-hidden': 'true' });
    swatch.style.setProperty('--swatch', `var(${one.colour})`);
    const value = h('span', { class: 'legend-value' });
    return { ...one, value, element: h('li', {}, swatch, h('span', { text: one.label }), value) };
  });
  const point = (at) => {
    if (!shown) return;
    const { data, span } = shown;
    const step = at === null ? undefined : data.steps[at];
    const count = (key) => (step ? step[key] : sum(data.steps, key));
    let all = 0;
    for (const entry of entries) {
      const n = count(entry.key);
      all += n;
      setText(entry.value, f.int(n));
      entry.element.classList.toggle('none', n === 0);
    }
    setText(total, f.int(all));
    const length = f.duration(data.step_ms);
    setText(when, step ? `in ${length} from ${f.time(step.at_ms)}` : `in the last ${WORDS[span]}`);
  };
  const chart = stackedChart({ series, sync: 'activity', onHover: point });
  const element = h('figure', { class: 'half' },
    h('figcaption', {}, h('span', { class: 'half-title', text: title }), ' ', total, ' ', when, h('span', { class: 'axis-note', text: 'requests/s' })),
    chart.element, h('ul', { class: 'legend' }, entries.map((entry) => entry.element)));
  return {
    element, chart,
    set(data, steps, span) {
      shown = { data, span };
      const columns = series.map((one) => steps.column(one.key));
      chart.set(steps.times, columns, describe(title, columns, steps.times, span));
      point(null);
    },
  };
}

function describe(title, columns, times, span) {
  let [most, at, all, steps] = [0, 0, 0, 0];
  for (let i = 0; i < times.length - 1; i += 1) {
    const now = columns.reduce((total, column) => total + (column[i] ?? 0), 0);
    if (now > most) [most, at] = [now, i];
    all += now;
    steps += 1;
  }
  if (most === 0) return `${title}: none in the last ${WORDS[span]}`;
  const mean = f.rate(all / Math.max(1, steps));
  return `${title} in the last ${WORDS[span]}: ${mean} requests a second on average, at most ${f.rate(most)} at ${f.time(times[at])}`;
}

/** Creates a table with the figures of the charts. It is filled when the user opens it. */
function stepsTable() {
  const body = h('tbody');
  const all = [...ADMITTED, ...REFUSED];
  const head = h('tr', {}, h('th', { scope: 'col', text: 'From' }),
    all.map((one, at) => h('th', { scope: 'col', class: 'num', text: at < 3 ? `admitted ${one.label}` : `refused: ${one.label}` })));
  const table = h('table', {}, h('caption', { class: 'hidden-label', text: 'Requests by outcome in each step' }), h('thead', {}, head), body);
  const region = h('div', { class: 'scroller tall', role: 'group', 'aria-label': 'Requests by outcome in each step', tabindex: '0' }, table);
  const element = h('details', { class: 'as-table' }, h('summary', { text: 'As a table' }), region);
  let data = null;
  const fill = () => {
    if (!element.open || !data) return;
    body.replaceChildren(...[...data.steps].reverse().map((step) => h('tr', {},
      h('th', { scope: 'row', title: f.utc(step.at_ms), text: f.time(step.at_ms) }),
      all.map((one) => h('td', { class: 'num', text: f.int(step[one.key]) })))));
  };
  element.addEventListener('toggle', fill);
  return {
    element,
    set(next) {
      data = next;
      fill();
    },
  };
}
