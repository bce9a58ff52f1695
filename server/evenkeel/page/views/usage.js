// Usage and cost by consumer, model, route and day, and the sessions of a day. Each row links to its details.

import { address, poll, read } from '../lib/api.js';
import { h, setAttr, setText, show } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { current, go, link, patch, unpaged } from '../lib/router.js';
import { dataTable, linked, pager, PAGE_SIZE, text } from '../lib/table.js';
import { choice, csvLink, empty, loadBar, section, stat, timeOf, viewHeading } from '../lib/ui.js';

const DAY_MS = 86_400_000;
const RANGES = [['1', 'Today'], ['7', '7 days'], ['30', '30 days']];
const BY = ['consumer', 'model', 'route', 'day'];
const FILTERS = ['consumer', 'model', 'route'];
/** For each grouping, the grouping of the view that a row links to. */
const NEXT = { consumer: 'model', model: 'consumer', route: 'consumer', day: 'consumer' };

const NO_USAGE = 'No usage in this period. A request counts on the day it ends (UTC).';

/** Returns the selected days: a range, or a number of days up to today. */
function range(params) {
  if (params.from) return { from: params.from, to: params.to || params.from };
  const days = Number(params.days || 1);
  return { from: f.day(Date.now() - (days - 1) * DAY_MS), to: f.day(Date.now()) };
}

const filters = (params) => Object.fromEntries(FILTERS.map((name) => [name, params[name] ?? '']));

export function create() {
  let params = {};
  const heading = viewHeading('Usage');
  const ranges = choice('Days', RANGES.map(([value, label]) => ({ value, label, href: '#' })));
  const from = h('input', { type: 'date', 'aria-label': 'First day (UTC)' });
  const to = h('input', { type: 'date', 'aria-label': 'Last day (UTC)' });
  const dated = () => from.value && go('/usage', { ...unpaged(params), days: '', from: from.value, to: to.value && to.value >= from.value ? to.value : from.value });
  from.addEventListener('change', dated);
  to.addEventListener('change', dated);
  const chips = h('ul', { class: 'chips', 'aria-label': 'Only' });
  const stats = { cost: stat('Cost'), requests: stat('Requests'), input: stat('Input tokens'), output: stat('Output tokens') };
  const rows = rowsPart();
  const days = daysPart();
  const sessions = sessionsPart();
  const element = h('div', { class: 'view' },
    h('header', { class: 'panel hero slim' }, h('div', { class: 'hero-words' }, heading, chips,
      h('div', { class: 'filters' }, ranges.element, h('div', { class: 'dates' }, from, h('span', { class: 'muted', text: 'to' }), to))),
    h('dl', { class: 'stats' }, Object.values(stats).map((one) => one.element))),
    rows.element, days.element, sessions.element);

  // A range that ends today moves at midnight. Then reload the whole view from its first page.
  let today = '';
  const movedOn = () => {
    if (today === f.day(Date.now()) || params.from) return false;
    patch({}, { replace: true });
    if (today !== f.day(Date.now())) update(params);
    return true;
  };
  const take = (data) => {
    if (movedOn()) return;
    rows.set(data, params);
    const { total } = data;
    stats.cost.set(f.money(total.cost), '');
    stats.requests.set(f.compact(total.requests), total.estimated ? `${f.int(total.estimated)} estimated` : '');
    stats.input.set(f.compact(total.tokens.input), `${f.compact(total.tokens.cached_input)} cached`);
    stats.output.set(f.compact(total.tokens.output), `${f.compact(total.tokens.reasoning)} reasoning`);
  };
  const by = () => (BY.includes(params.by) ? params.by : 'consumer');
  const query = () => ({ ...range(params), ...filters(params), by: by() });
  const several = () => range(params).from !== range(params).to;
  const polls = [
    poll((signal) => read('usage', { ...query(), page_size: PAGE_SIZE, page_token: params.page }, signal), take, (error) => movedOn() || rows.fail(error), () => 4000),
    poll((signal) => (several() ? read('usage', { ...query(), by: 'day', page_size: 400 }, signal) : null), days.set, days.fail, () => 15_000),
    poll((signal) => read('usage/sessions', { day: range(params).to, consumer: params.consumer, page_size: PAGE_SIZE, page_token: params.spage }, signal), sessions.set, sessions.fail, () => 5000),
  ];
  const refresh = () => polls.forEach((one) => one.refresh());
  const update = (next) => {
    params = next;
    today = f.day(Date.now());
    const { from: first, to: last } = range(params);
    ranges.set(params.from ? '' : params.days || '1', (value) => link('/usage', { ...unpaged(params), from: '', to: '', days: value === '1' ? '' : value }));
    [from.value, to.value] = [first, last];
    chips.replaceChildren(...chipsOf(params));
    show(chips, chips.childElementCount > 0);
    show(sessions.element, !params.model && !params.route);
    show(days.element, several());
    sessions.of(last);
    rows.choose(query(), params);
    refresh();
  };
  return {
    title: 'Usage', element, watch: () => ({}), refresh, update,
    destroy: () => polls.forEach((one) => one.stop()),
  };
}

/** Shows the active filters, each with a button that removes it. */
function chipsOf(params) {
  return FILTERS.filter((name) => params[name]).map((name) => {
    const button = h('button', { type: 'button', 'aria-label': `All ${name}s again`, text: '×' });
    button.addEventListener('click', () => patch({ [name]: '' }));
    return h('li', { class: 'chip' }, h('span', { class: 'muted', text: `${name} ` }), h('strong', { text: params[name] }), button);
  });
}

function rowsPart() {
  const kinds = choice('Group by', BY.map((value) => ({ value, label: `By ${value}`, href: '#' })));
  const csv = csvLink('usage.csv');
  const part = section('By consumer, model, route or day', { actions: [kinds.element, csv], wide: true });
  const holder = h('div');
  const pages = pager('rows');
  part.body.append(holder, pages.element);
  let table = null;
  let made = '';
  let most = 1;
  const build = (by) => {
    made = by;
    table = dataTable({
      caption: `Usage by ${by}`, key: (row) => row[by], emptyState: empty(NO_USAGE, 'evenkeel usage --by consumer,model --days 7'),
      columns: [
        { title: by[0].toUpperCase() + by.slice(1), head: true, make: linked((row) => f.named(row[by]), (row) => further(by, row)) },
        { title: 'Tokens', num: true, make: text((row) => f.compact(row.tokens.total), (row) => f.int(row.tokens.total)) },
        { title: 'Share', wide: true, make: (td) => {
          const bar = loadBar();
          td.append(bar.element);
          return (row) => bar.set(row.tokens.total / most, 'ok');
        } },
        { title: 'Requests', num: true, make: text((row) => f.compact(row.requests), (row) => `${f.int(row.requests)}, ${f.int(row.estimated)} estimated`) },
        { title: 'Input', num: true, make: text((row) => f.compact(row.tokens.input), (row) => `${f.int(row.tokens.input)}, ${f.int(row.tokens.cached_input)} of them cached`) },
        { title: 'Output', num: true, make: text((row) => f.compact(row.tokens.output), (row) => `${f.int(row.tokens.output)}, ${f.int(row.tokens.reasoning)} of them reasoning`) },
        { title: 'Cost', num: true, make: text((row) => f.money(row.cost)) },
      ],
    });
    holder.replaceChildren(table.element);
  };
  return {
    element: part.element, fail: part.fail,
    choose(query, params) {
      if (made !== query.by) build(query.by);
      kinds.set(query.by, (value) => link('/usage', { ...unpaged(params), by: value === 'consumer' ? '' : value }));
      setAttr(csv, 'href', address('usage', { ...query, format: 'csv' }));
    },
    set(data) {
      part.fail(null);
      most = Math.max(1, ...data.rows.map((row) => row.tokens.total));
      table.set(data.rows);
      pages.set(data.rows.length, undefined, data.next_page_token);
    },
  };
}

/** Returns the link of a row. It leads to the usage within that row. */
function further(by, row) {
  const { params } = current();
  const to = { ...unpaged(params), by: NEXT[by] === 'consumer' ? '' : NEXT[by] };
  if (by === 'day') return link('/usage', { ...to, days: '', from: row.day, to: row.day, by: params.by === 'day' ? '' : to.by });
  const wanted = { ...to, [by]: row[by] || '(none)' };
  // Do not group by a filtered dimension: all rows would have the same value.
  const rest = BY.filter((kind) => !wanted[kind] && kind !== 'route');
  const next = rest.includes(NEXT[by]) ? NEXT[by] : rest[0] ?? 'day';
  return link('/usage', { ...wanted, by: next === 'consumer' ? '' : next });
}

function daysPart() {
  const part = section('Day by day', { wide: true });
  const list = h('ol', { class: 'days' });
  part.body.append(list);
  return {
    element: part.element, fail: part.fail,
    set(data) {
      part.fail(null);
      if (!data) return;
      const most = Math.max(1, ...data.rows.map((row) => row.tokens.total));
      const rows = [...data.rows].sort((a, b) => a.day.localeCompare(b.day));
      list.replaceChildren(...rows.map((row) => {
        const bar = loadBar();
        bar.set(row.tokens.total / most, 'ok');
        const { params } = current();
        return h('li', {}, h('a', { href: link('/usage', { ...unpaged(params), days: '', from: row.day, to: row.day }), text: row.day }), bar.element,
          h('span', { class: 'num', text: `${f.compact(row.tokens.total)} tokens` }), h('span', { class: 'num', text: f.money(row.cost) }));
      }));
    },
  };
}

function sessionsPart() {
  const csv = csvLink('sessions.csv');
  const part = section('Sessions', { actions: csv, wide: true });
  const table = dataTable({
    caption: 'Sessions by tokens', key: (s) => `${s.consumer}\n${s.session}`, emptyState: empty('No sessions on that day. Requests belong to a session if the plugin\u2019s session_headers name the header with its id.', 'evenkeel usage sessions'),
    columns: [
      { title: 'Session', head: true, make: linked((s) => f.named(s.session), (s) => link('/session', { id: s.session, consumer: s.consumer })) },
      { title: 'Consumer', make: linked((s) => f.named(s.consumer), (s) => link('/usage', { consumer: s.consumer || '(none)', by: 'model' })) },
      { title: 'Requests', num: true, make: text((s) => f.int(s.usage.requests)) },
      { title: 'Tokens', num: true, make: text((s) => f.compact(s.usage.tokens.total), (s) => f.int(s.usage.tokens.total)) },
      { title: 'Cost', num: true, make: text((s) => f.money(s.usage.cost)) },
      { title: 'Last seen', num: true, make: (td) => {
        const time = timeOf();
        td.append(time.element);
        return (s) => time.set(s.last_ms);
      } },
    ],
  });
  const pages = pager('sessions', { prefix: 's' });
  part.body.append(table.element, pages.element);
  return {
    element: part.element, fail: part.fail,
    of(day) {
      const { params } = current();
      setText(part.heading, `Sessions of ${day}`);
      setAttr(csv, 'href', address('usage/sessions', { day, consumer: params.consumer, page_size: 1000, format: 'csv' }));
    },
    set(data) {
      part.fail(null);
      table.set(data.sessions);
      pages.set(data.sessions.length, undefined, data.next_page_token);
    },
  };
}
