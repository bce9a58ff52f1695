// The keys that have used most of their limits, the configured limits, and the overrides.

import { actionButton, forgetOverride, overrideLimit } from '../lib/actions.js';
import { poll, read } from '../lib/api.js';
import { faultLine, field, openDialog } from '../lib/dialog.js';
import { h, show } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { link, patch } from '../lib/router.js';
import { dataTable, linked, pager, PAGE_SIZE, text } from '../lib/table.js';
import { withToken } from '../lib/token.js';
import { badge, empty, loadBar, searchField, section, timeOf, viewHeading } from '../lib/ui.js';

/** The configured limits by name. */
const configured = new Map();

async function learn(signal) {
  const { limits } = await read('limits', {}, signal);
  configured.clear();
  limits.forEach((limit) => configured.set(limit.name, limit));
  return limits;
}

const countsOf = (override) => configured.get(override.limit)?.counts;

/**
 * Returns the table of keys, ordered by the used fraction of their limit. `short` selects the columns for the overview.
 */
export function fullestTable({ short = false, done } = {}) {
  const columns = [
    { title: 'Key', head: true, make: linked((n) => n.key, (n) => link('/limits', { search: n.key })) },
    { title: 'Limit', make: text((n) => `${n.limit}${n.shadow ? ' (shadow)' : ''}`) },
    { title: 'Used', wide: true, make: usedCell },
    { title: short ? 'Left' : 'Used of amount', num: true, make: text(short ? leftOf : (n) => `${f.amountShort(n.used, n.counts)} of ${f.amountShort(n.amount, n.counts)}`, (n) => `${f.amount(n.used, n.counts)} of ${f.amountOf(n.amount, n.counts)}`) },
  ];
  if (!short) {
    columns.push(
      { title: 'Room again', num: true, make: text((n) => (n.reset_at_ms ? f.relative(n.reset_at_ms) : '–')) },
      { title: 'Last seen', num: true, make: (td) => {
        const time = timeOf();
        td.append(time.element);
        return (n) => time.set(n.seen_at_ms);
      } },
      { title: '', label: 'Actions', make: (td) => {
        let row = null;
        const button = actionButton('Override …', () => overrideLimit({ limit: limitOf(row), key: row.key }, done));
        td.append(button.element);
        return (n) => {
          row = n;
          button.set('Override …', `${n.limit} of ${n.key}`);
        };
      } },
    );
  }
  return dataTable({
    caption: 'Keys closest to their limit', key: (n) => `${n.limit}\n${n.key}`, columns,
    emptyState: empty('No limit has counted a request recently. To see which limits apply to a request:', 'evenkeel explain --cluster llm --consumer alice'),
  });
}

const limitOf = (row) => configured.get(row.limit) ?? { name: row.limit, counts: row.counts, amount: row.amount, per: '' };

const leftOf = (n) => `${f.amountShort(Math.max(0, n.amount - n.used), n.counts)} left`;

function usedCell(td) {
  const bar = loadBar();
  const share = h('span', { class: 'bar-share' });
  td.append(h('span', { class: 'bar-and-share' }, bar.element, share));
  return (n) => {
    bar.set(n.share);
    share.textContent = n.share >= 1 ? 'used up' : f.percent(n.share);
  };
}

export function create() {
  let params = {};
  const search = searchField('Search consumers and keys', (value) => patch({ search: value }, { replace: true }));
  const which = h('select', { 'aria-label': 'Limit' }, h('option', { value: '', text: 'Every limit' }));
  which.addEventListener('change', () => patch({ limit: which.value }));
  const part = section('Closest to their limit', { actions: [which, search.element], wide: true, note: 'Among the keys that counted requests recently.' });
  const refresh = () => polls.forEach((one) => one.refresh());
  const fullest = fullestTable({ done: refresh });
  const pages = pager('keys');
  part.body.append(fullest.element, pages.element);
  const overrides = overridesPart(refresh);
  const all = configuredPart(refresh);

  const takeFullest = (data) => {
    part.fail(null);
    fullest.set(data.keys);
    pages.set(data.keys.length, data.total, data.next_page_token);
  };
  const loadFullest = (signal) => read('limits/fullest', { limit: params.limit, search: params.search, page_size: PAGE_SIZE, page_token: params.page }, signal);
  const polls = [
    poll(loadFullest, takeFullest, part.fail, () => 2000),
    poll(learn, (limits) => {
      all.set(limits);
      options(which, limits.map((limit) => limit.name), params.limit);
    }, all.fail, () => 30_000),
    poll((signal) => read('overrides', { limit: params.limit, search: params.search, page_size: PAGE_SIZE, page_token: params.opage }, signal), overrides.set, overrides.fail, () => 5000),
  ];
  const element = h('div', { class: 'view' }, h('header', { class: 'view-head' }, viewHeading('Limits'),
    h('p', { class: 'lead', text: 'Requests, tokens and cost, counted across all gateways.' })), part.element, overrides.element, all.element);
  return {
    title: 'Limits', element, watch: () => ({}), refresh,
    update(next) {
      params = next;
      search.set(params.search ?? '');
      options(which, [...configured.keys()], params.limit);
      refresh();
    },
    destroy: () => polls.forEach((one) => one.stop()),
  };
}

/**
 * Fills a select element with names and selects one of them. A name from the address stays an option even if it is
 * unknown.
 */
export function options(select, names, chosen = '') {
  const wanted = ['', ...names, ...(chosen && !names.includes(chosen) ? [chosen] : [])];
  const present = [...select.options].map((one) => one.value);
  if (present.join('\n') !== wanted.join('\n')) {
    select.replaceChildren(select.options[0], ...wanted.slice(1).map((name) => h('option', { value: name, text: name })));
  }
  if (select.value !== chosen) select.value = chosen;
  show(select, names.length > 1 || chosen !== '');
}

function overridesPart(done) {
  const part = section('Overrides', { wide: true, note: 'Another amount for one key, set by an administrator.' });
  const table = dataTable({
    caption: 'Overrides', key: (o) => `${o.limit}\n${o.key}`, emptyState: empty('No override of these keys. They have the configured amount.', 'evenkeel limits override LIMIT consumer=alice --amount 1000 --for 2h'),
    columns: [
      { title: 'Key', head: true, make: text((o) => o.key) },
      { title: 'Limit', make: text((o) => o.limit) },
      { title: 'Amount', num: true, make: text((o) => (o.unlimited ? 'unlimited' : f.amountOf(o.amount, countsOf(o)))) },
      { title: 'Ends', num: true, make: text((o) => (o.expires_at_ms ? f.relative(o.expires_at_ms) : 'never'), (o) => (o.expires_at_ms ? f.utc(o.expires_at_ms) : 'stays until it is removed')) },
      { title: 'By', make: text((o) => `${o.who}, ${f.relative(o.at_ms)}`, (o) => f.utc(o.at_ms)) },
      { title: '', label: 'Actions', make: (td) => {
        let row = null;
        const button = actionButton('Remove …', () => forgetOverride(row, countsOf(row), done));
        td.append(button.element);
        return (o) => {
          row = o;
          button.set('Remove …', `the override of ${o.limit} for ${o.key}`);
        };
      } },
    ],
  });
  const pages = pager('overrides', { prefix: 'o' });
  part.body.append(table.element, pages.element);
  return { element: part.element, fail: part.fail, set(data) {
    part.fail(null);
    table.set(data.overrides);
    pages.set(data.overrides.length, undefined, data.next_page_token);
  } };
}

const ALGORITHMS = { fixed_window: 'fixed window', sliding_window: 'sliding window', token_bucket: 'token bucket', concurrency: 'at the same time' };

function configuredPart(done) {
  const part = section('As configured', { wide: true });
  const table = dataTable({
    caption: 'Limits as configured', key: (limit) => limit.name, emptyState: empty('No limits are configured. Add them to the configuration, under limits.', 'evenkeel check-config evenkeel.yaml'),
    columns: [
      { title: 'Limit', head: true, make: linked((limit) => limit.name, (limit) => link('/limits', { limit: limit.name })) },
      { title: 'Counts', make: text((limit) => f.unit(limit.counts)) },
      { title: 'Amount', num: true, make: text((limit) => `${f.amount(limit.amount, limit.counts)}${limit.per ? ` per ${limit.per}` : ''}`) },
      { title: 'How', make: text((limit) => ALGORITHMS[limit.algorithm] ?? limit.algorithm) },
      { title: 'Counted apart by', make: text((limit) => (limit.key.length ? limit.key.join(', ') : 'nothing: one for all')) },
      { title: 'Mode', make: (td) => {
        const mark = badge();
        td.append(mark.element);
        return (limit) => mark.set(limit.shadow ? 'shadow: never refuses' : 'enforced', limit.shadow ? 'warn' : 'ok');
      } },
      { title: '', label: 'Actions', make: (td) => {
        let row = null;
        const button = actionButton('Override …', () => withToken(() => askKey(row, done)));
        td.append(button.element);
        return (limit) => {
          row = limit;
          button.set('Override …', `${limit.name} for a key`);
        };
      } },
    ],
  });
  part.body.append(table.element);
  return { element: part.element, fail: part.fail, set(limits) {
    part.fail(null);
    table.set(limits);
  } };
}

/** Asks for the key, and then opens the dialog of the override. */
function askKey(limit, done) {
  openDialog((close) => {
    const input = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', value: limit.key.length ? limit.key.map((part) => `${part}=`).join('|') : `limit=${limit.name}` });
    const fault = faultLine();
    const form = h('form', { class: 'dialog-body', novalidate: true },
      field('Key', input, `As "evenkeel explain" shows it, such as ${limit.form_of_key ?? limit.key.map((part) => `${part}=…`).join('|')}.`), fault.element,
      h('div', { class: 'dialog-actions' }, h('button', { type: 'button', text: 'Cancel', on: { click: close } }), h('button', { type: 'submit', class: 'primary', text: 'Go on' })));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!key) {
        fault.set('Key: must not be empty.');
        return;
      }
      close();
      overrideLimit({ limit, key }, done);
    });
    return { title: `Override ${limit.name} for one key`, content: form, first: input };
  });
}
