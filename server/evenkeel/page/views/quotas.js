// Quotas: how fast consumers use them, when they run out, and the recorded balances.

import { actionButton, changeQuota } from '../lib/actions.js';
import { poll, read } from '../lib/api.js';
import { field, faultLine, openDialog } from '../lib/dialog.js';
import { h, setText, show } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { link, patch } from '../lib/router.js';
import { withToken } from '../lib/token.js';
import { dataTable, linked, pager, PAGE_SIZE, text } from '../lib/table.js';
import { empty, loadBar, searchField, section, timeOf, viewHeading } from '../lib/ui.js';
import { options } from './limits.js';

/** Names of the configured quotas, from the overview. */
let names = [];

const runsOut = (burn) => {
  if (burn.balance === 0) return burn.reset_at_ms ? `used up; full again ${f.relative(burn.reset_at_ms)}` : 'used up';
  if (burn.runs_out_at_ms) return f.relative(burn.runs_out_at_ms);
  return burn.reset_at_ms ? 'not in this period' : 'not within a year';
};

/**
 * Returns the table of consumers, ordered by the time when their quotas run out. `short` selects the columns for the
 * overview.
 */
export function burnRatesTable({ short = false, done } = {}) {
  const columns = [
    { title: 'Consumer', head: true, make: linked((b) => f.named(b.consumer), (b) => link('/quotas', { search: b.consumer })) },
    { title: 'Quota', make: text((b) => b.quota) },
    { title: 'Left', num: true, make: text((b) => (b.amount && !short ? `${f.amountShort(b.balance, b.counts)} of ${f.amountShort(b.amount, b.counts)}` : f.amountShort(b.balance, b.counts)), (b) => f.amountOf(b.balance, b.counts)) },
    { title: 'Burn rate', num: true, make: text((b) => `${f.amountShort(b.burn_per_hour, b.counts)}/h`) },
    { title: 'Runs out', num: true, make: (td) => (b) => {
      setText(td, runsOut(b));
      td.dataset.tone = b.balance === 0 ? 'bad' : b.runs_out_at_ms ? 'warn' : '';
      td.title = b.runs_out_at_ms ? `${f.time(b.runs_out_at_ms)} (${f.utc(b.runs_out_at_ms)})` : '';
    } },
  ];
  if (!short) {
    columns.splice(2, 0, { title: 'Used', wide: true, make: (td) => {
      const bar = loadBar();
      const prepaid = h('span', { class: 'muted', text: 'prepaid' });
      td.append(bar.element, prepaid);
      return (b) => {
        show(bar.element, b.amount > 0);
        show(prepaid, b.amount === 0);
        bar.set(b.amount ? 1 - b.balance / b.amount : 0);
      };
    } });
    columns.push(
      { title: 'Last seen', num: true, make: (td) => {
        const time = timeOf();
        td.append(time.element);
        return (b) => time.set(b.seen_at_ms);
      } },
      { title: '', label: 'Actions', make: (td) => changeCell(td, done) },
    );
  }
  return dataTable({
    caption: 'Quotas by when they run out', key: (b) => `${b.quota}\n${b.consumer}`, columns,
    emptyState: empty('No quota has counted a request in the last hour. To give a consumer a balance:', 'evenkeel quota set alice 100000 --note "trial"'),
  });
}

function changeCell(td, done) {
  let row = null;
  const button = actionButton('Change …', () => changeQuota(row, done));
  td.append(button.element);
  return (b) => {
    row = b;
    button.set('Change …', `${b.quota} of ${b.consumer}`);
  };
}

export function create() {
  let params = {};
  const search = searchField('Search consumers', (value) => patch({ search: value }, { replace: true }));
  const which = h('select', { 'aria-label': 'Quota' }, h('option', { value: '', text: 'Every quota' }));
  which.addEventListener('change', () => patch({ quota: which.value }));
  const set = h('button', { type: 'button', text: 'Set a quota …', on: { click: () => withToken(() => askForConsumer(params, () => refresh())) } });
  const part = section('Running out soonest', { actions: [which, search.element, set], wide: true, note: 'At the rate of the last hour.' });
  const refresh = () => polls.forEach((one) => one.refresh());
  const burnRates = burnRatesTable({ done: () => refresh() });
  const pages = pager('consumers');
  part.body.append(burnRates.element, pages.element);
  const records = recordsPart(() => refresh());
  const take = (data) => {
    part.fail(null);
    burnRates.set(data.burn_rates);
    pages.set(data.burn_rates.length, data.total, data.next_page_token);
  };
  const loadRecords = async (signal) => {
    const quota = params.quota || names[0] || '';
    if (!quota) return { quota, quotas: [], next_page_token: '' };
    return { quota, ...(await read('quotas', { quota, search: params.search, page_size: PAGE_SIZE, page_token: params.rpage }, signal)) };
  };
  const polls = [
    poll((signal) => read('quotas/burn-rates', { quota: params.quota, search: params.search, page_size: PAGE_SIZE, page_token: params.page }, signal), take, part.fail, () => 2000),
    poll(loadRecords, records.set, records.fail, () => 5000),
  ];
  const element = h('div', { class: 'view' }, h('header', { class: 'view-head' }, viewHeading('Quotas'),
    h('p', { class: 'lead', text: 'Prepaid balances and budgets of consumers, and when they run out.' })), part.element, records.element);
  return {
    title: 'Quotas', element, watch: () => ({}), refresh,
    update(next) {
      params = next;
      search.set(params.search ?? '');
      options(which, names, params.quota);
      refresh();
    },
    live(name, data) {
      if (name !== 'overview') return;
      const configured = data.quotas.map((quota) => quota.name);
      if (configured.join('\n') === names.join('\n')) return;
      names = configured;
      options(which, names, params.quota);
      refresh();
    },
    destroy: () => polls.forEach((one) => one.stop()),
  };
}

function recordsPart(done) {
  const part = section('On record', { wide: true });
  const table = dataTable({
    caption: 'Quotas on record', key: (q) => `${q.quota}\n${q.consumer}`,
    emptyState: empty('No consumer whose name contains this text has a record; the configured default applies.', 'evenkeel quota set alice 100000 --note "trial"'),
    columns: [
      { title: 'Consumer', head: true, make: text((q) => q.consumer) },
      { title: 'Quota', make: text((q) => q.quota) },
      { title: 'Left', num: true, make: text((q) => (q.amount ? `${f.amount(q.balance, q.counts)} of ${f.amount(q.amount, q.counts)}` : f.amount(q.balance, q.counts)), (q) => f.unit(q.counts)) },
      { title: 'Reserved', num: true, make: text((q) => f.amount(q.reserved, q.counts)) },
      { title: 'Used', num: true, make: text((q) => f.amount(q.used, q.counts)) },
      { title: 'Overrun', num: true, make: text((q) => (q.overrun ? f.amount(q.overrun, q.counts) : '–')) },
      { title: 'Full again', num: true, make: text((q) => (q.reset_ms ? `in ${f.duration(q.reset_ms)}` : '–')) },
      { title: '', label: 'Actions', make: (td) => changeCell(td, done) },
    ],
  });
  const pages = pager('records', { prefix: 'r' });
  part.body.append(table.element, pages.element);
  return {
    element: part.element,
    fail: part.fail,
    set(data) {
      part.fail(null);
      setText(part.heading, data.quota ? `On record in ${data.quota}` : 'On record');
      table.set(data.quotas);
      pages.set(data.quotas.length, undefined, data.next_page_token);
    },
  };
}

/** Asks for the quota and the consumer before the change, so that users can change a consumer that no list shows. */
function askForConsumer(params, done) {
  openDialog((close) => {
    const quota = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', value: params.quota || names[0] || '' });
    const consumer = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false' });
    const fault = faultLine();
    const form = h('form', { class: 'dialog-body', novalidate: true }, field('Quota', quota, 'Its name in the configuration.'), field('Consumer', consumer), fault.element,
      h('div', { class: 'dialog-actions' }, h('button', { type: 'button', text: 'Cancel', on: { click: close } }), h('button', { type: 'submit', class: 'primary', text: 'Go on' })));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const [q, c] = [quota.value.trim(), consumer.value.trim()];
      if (!q || !c) {
        fault.set(`${q ? 'Consumer' : 'Quota'}: must not be empty.`);
        return;
      }
      close();
      changeQuota({ quota: q, consumer: c }, done);
    });
    return { title: 'Set a quota', content: form, first: quota.value ? consumer : quota };
  });
}
