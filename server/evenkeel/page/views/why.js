// Explains a refusal by its request id, and lists the last refusals.

import { actionButton, changeQuota, overrideLimit } from '../lib/actions.js';
import { poll, read, segment } from '../lib/api.js';
import { h, show } from '../lib/dom.js';
import * as f from '../lib/format.js';
import { current, go, link, patch } from '../lib/router.js';
import { PAGE_SIZE, dataTable, linked, pager, text } from '../lib/table.js';
import { empty, loadBar, reasonWords, searchField, section, timeOf, viewHeading } from '../lib/ui.js';

/** Returns the table of refusals, newest first. `short` selects the columns for the overview. */
export function refusalsTable({ short = false } = {}) {
  const columns = [
    { title: 'When', make: (td) => {
      const time = timeOf();
      td.append(time.element);
      return (r) => time.set(r.at_ms);
    } },
    { title: 'Request', head: true, make: linked((r) => (short ? shorten(r.request_id) : f.named(r.request_id)), (r) => link('/why', { id: r.request_id })) },
    { title: 'Consumer', make: text((r) => f.named(r.consumer)) },
    { title: 'Refused by', make: text((r) => (r.limit ? `${reasonWords(r.reason)} ${r.limit}` : reasonWords(r.reason))) },
  ];
  if (!short) {
    columns.push(
      { title: 'Pool', make: linked((r) => f.poolName(r.pool), (r) => link('/pool', { cluster: r.pool.cluster, route: r.pool.route })) },
      { title: 'Model', make: text((r) => r.model || '–') },
      { title: 'Status', num: true, make: text((r) => r.status) },
    );
  }
  return dataTable({
    caption: 'Refusals, newest first', key: (r) => `${r.request_id}\n${r.at_ms}\n${r.consumer}`, columns,
    emptyState: empty('No refusals on record.'),
  });
}

/**
 * Maximum number of attempts to read a refusal, and the wait between them. Sidecars record a refusal within about a
 * second.
 */
const AGAIN_MAX = 5;
const AGAIN_MS = 1000;

const shorten = (id) => (id.length > 13 ? `${id.slice(0, 12)}…` : f.named(id));

export function create() {
  let params = {};
  const input = h('input', { id: 'request-id', type: 'search', autocomplete: 'off', spellcheck: 'false', placeholder: 'x-request-id of the refused request' });
  const form = h('form', { class: 'ask', role: 'search' }, h('label', { for: 'request-id', text: 'Request id' }), input, h('button', { type: 'submit', class: 'primary', text: 'Explain' }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const id = input.value.trim();
    if (id === (params.id ?? '')) explainAgain();
    else go('/why', { ...current().params, id });
  });
  const answer = h('div', { role: 'status' });
  const search = searchField('Only this consumer', (value) => patch({ consumer: value }, { replace: true }));
  const part = section('Last refusals', { actions: search.element, wide: true, note: 'The newest 1000. A refusal with an id is explained for an hour.' });
  const table = refusalsTable();
  const pages = pager('refusals');
  part.body.append(table.element, pages.element);
  const element = h('div', { class: 'view' }, h('header', { class: 'panel hero slim' }, h('div', { class: 'hero-words' }, viewHeading('Why was it refused?'),
    h('p', { class: 'lead', text: 'A refused request has its id in the gateway\u2019s access log, and in the header x-request-id if the gateway sends it.' }), form, answer)), part.element);
  const take = (data) => {
    part.fail(null);
    table.set(data.refusals);
    pages.set(data.refusals.length, undefined, data.next_page_token);
  };
  const polled = poll((signal) => read('refusals', { consumer: params.consumer, page_size: PAGE_SIZE, page_token: params.page }, signal), take, part.fail, () => 3000);
  let asked = '';
  let missing = false;
  let again = 0;
  const ask = poll((signal) => (params.id ? refusalOf(params.id, signal) : null), (found) => {
    missing = false;
    answer.replaceChildren(...(found ? [explain(found)] : []));
  }, (error) => {
    missing = true;
    again += 1;
    const words = error.status === 404 ? notFound(params.id) : h('p', { class: 'problem', text: `Could not be read: ${error.message}` });
    // Change the text only if it differs, so that screen readers announce it once.
    if (answer.textContent !== words.textContent) answer.replaceChildren(words);
  }, () => (missing && again < AGAIN_MAX ? AGAIN_MS : 3_600_000));
  const explainAgain = () => {
    [missing, again] = [false, 0];
    ask.refresh();
  };
  return {
    title: 'Why was it refused?', element, watch: () => ({}),
    update(next) {
      params = next;
      if (document.activeElement !== input) input.value = params.id ?? '';
      search.set(params.consumer ?? '');
      polled.refresh();
      if (asked === (params.id ?? '')) return;
      asked = params.id ?? '';
      explainAgain();
    },
    refresh() {
      polled.refresh();
      if (missing) explainAgain();
    },
    destroy() {
      polled.stop();
      ask.stop();
    },
  };
}

const notFound = (id) => h('div', { class: 'empty' }, h('p', { text: `No refusal of ${id} is on record. The request may have been admitted, or refused more than an hour ago; more than 20 refusals a second are not all recorded; or the gateway sends no request ids.` }));

const FACTS = [
  ['When', (r) => `${f.time(r.at_ms)} (${f.utc(r.at_ms)})`],
  ['Consumer', (r) => f.named(r.consumer)],
  ['Model', (r) => r.model || '–'],
  ['Pool', (r) => f.poolName(r.pool)],
  ['Answered with', (r) => `${r.status}${r.retry_after_ms ? `, try again in ${f.duration(r.retry_after_ms)}` : ''}`],
  ['Counted in', (r) => (r.limit ? `${r.limit}, ${r.key}` : '')],
  ['By sidecar', (r) => r.sidecar],
];

/** Reads a refusal, and what its limit or quota counts. The page shows both at once, so that no figure lacks its unit. */
async function refusalOf(id, signal) {
  const refusal = await read(`refusals/${segment(id)}`, {}, signal);
  return { refusal, counts: refusal.limit ? await countsOf(refusal, signal) : '' };
}

/** Returns the reason in words, followed by the figures that exceeded the limit. */
function explain({ refusal, counts }) {
  const facts = FACTS.map(([name, of]) => [name, of(refusal)]).filter(([, value]) => value);
  const list = h('dl', { class: 'facts' }, facts.map(([name, value]) => h('div', {}, h('dt', { text: name }), h('dd', { text: value }))));
  const element = h('div', { class: 'explained' }, h('p', { class: 'verdict', text: refusal.why || reasonWords(refusal.reason) }));
  if (refusal.limit && refusal.amount) element.append(arithmetic(refusal, counts));
  element.append(list, nextSteps(refusal));
  return element;
}

function arithmetic(r, counts) {
  const shown = (n) => f.amount(n, counts);
  const words = h('p', { class: 'sum', text: `${shown(r.used)} used + ${shown(r.cost)} for this request, of ${f.amountOf(r.amount, counts)}` });
  const bar = loadBar();
  bar.set(Math.min(1, (r.used + r.cost) / r.amount), 'full');
  return h('div', { class: 'arithmetic' }, words, bar.element);
}

/** Returns what the limit or quota counts: requests, tokens or cost; empty if the sidecar does not know it any more. */
async function countsOf(r, signal) {
  try {
    if (r.reason === 'quota') return (await read(`quotas/${segment(r.limit)}/${segment(r.consumer)}`, {}, signal)).counts;
    return (await read('limits', {}, signal)).limits.find((limit) => limit.name === r.limit)?.counts ?? '';
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    return '';
  }
}

function nextSteps(r) {
  const steps = h('div', { class: 'actions' });
  if (r.reason === 'limit') {
    const button = actionButton('Override …', () => overrideLimit({ limit: { name: r.limit, amount: r.amount }, key: r.key, look: true }));
    button.set('Override …', `${r.limit} of ${r.key}`);
    steps.append(h('a', { href: link('/limits', { limit: r.limit, search: r.key }), text: 'This limit now' }), button.element);
  } else if (r.reason === 'quota') {
    const button = actionButton('Change the quota …', () => changeQuota({ quota: r.limit, consumer: r.consumer }));
    button.set('Change the quota …', `${r.limit} of ${r.consumer}`);
    steps.append(h('a', { href: link('/quotas', { quota: r.limit, search: r.consumer }), text: 'This quota now' }), button.element);
  } else {
    steps.append(h('a', { href: link('/pool', { cluster: r.pool.cluster, route: r.pool.route }), text: 'This pool now' }));
  }
  if (r.consumer) steps.append(h('a', { href: link('/usage', { consumer: r.consumer, by: 'model' }), text: 'Their usage' }));
  show(steps, steps.childElementCount > 0);
  return steps;
}
