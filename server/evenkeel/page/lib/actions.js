// The changes that an administrator can make on the page: to balances and budgets, to overrides of limits, and to
// drains.

import { act } from './admin.js';
import { ApiError, read, segment } from './api.js';
import { field } from './dialog.js';
import { h, setText, show } from './dom.js';
import * as f from './format.js';

/** Creates a button for a row of a table. `set(words, whose)` sets its text and, for screen readers, its target. */
export function actionButton(text, onClick) {
  const hidden = h('span', { class: 'hidden-label' });
  const shown = h('span', { text });
  const element = h('button', { type: 'button', class: 'small' }, shown, hidden);
  element.addEventListener('click', onClick);
  return {
    element,
    set(words, whose) {
      setText(shown, words);
      setText(hidden, ` ${whose}`);
    },
  };
}

const whole = (input) => (/^\d{1,16}$/.test(input.value.trim()) ? Number(input.value.trim()) : NaN);

const option = (value, text) => h('option', { value, text });

/** Creates an input for an amount. Users type a cost in the currency, and every other amount as a whole number. */
function amountField(counts, label) {
  const input = h('input', { type: 'text', inputmode: counts === 'cost' ? 'decimal' : 'numeric', autocomplete: 'off' });
  const money = counts === 'cost';
  return {
    input,
    element: field(label, input, `Counts ${f.unit(counts) || 'requests or tokens'}.`),
    value() {
      if (!money) return whole(input);
      return /^\d{1,9}([.,]\d{1,6})?$/.test(input.value.trim()) ? Math.round(Number(input.value.trim().replace(',', '.')) * 1e6) : NaN;
    },
  };
}

const isBudget = (record) => record.amount > 0 || record.reset_ms > 0;

/** Sets, raises or lowers one consumer's quota. */
export function changeQuota({ quota, consumer }, done) {
  act(async () => {
    const path = `quotas/${segment(quota)}/${segment(consumer)}`;
    const record = await read(path);
    const budget = isBudget(record);
    const [was, thing] = budget ? [record.amount, 'amount per period'] : [record.balance, 'balance'];
    const how = h('select', {}, option('set', `Set the ${thing}`), option('add', 'Add'), option('take', 'Take away'));
    const much = amountField(record.counts, 'How much');
    const shown = (n) => f.amountOf(n, record.counts);
    return {
      title: `Quota ${record.quota} of ${consumer}`,
      about: budget
        ? `A budget of ${shown(record.amount)} a period; ${shown(record.used)} used, ${shown(record.balance)} left.`
        : `A prepaid balance of ${shown(record.balance)}; ${shown(record.used)} used so far.`,
      fields: [field('Change', how), much.element],
      state() {
        const n = much.value();
        const will = how.value === 'set' ? n : how.value === 'add' ? was + n : Math.max(0, was - n);
        const known = !Number.isNaN(n);
        const call = (note) => (how.value === 'set'
          ? { method: 'PUT', path, body: { amount: n, note } }
          : { method: 'POST', path: `${path}/adjust`, body: { delta: how.value === 'add' ? n : -n, note, request_id: crypto.getRandomValues(new Uint32Array(4)).join('-') } });
        const verb = { set: 'Set to', add: 'Raise to', take: 'Lower to' }[how.value];
        return {
          before: shown(was), after: known ? shown(will) : '?', confirm: known ? `${verb} ${shown(will)}` : 'Enter an amount',
          fault: known ? null : 'How much: must be a number of 0 or more.', tone: how.value === 'take' || (known && will < was) ? 'bad' : '',
          what: how.value === 'set' ? 'quota.set' : 'quota.adjust', target: `${record.quota}/${consumer}`, call,
        };
      },
    };
  }, done);
}

const UNTIL = [['', 'until it is removed'], ['3600000', 'for 1 hour'], ['14400000', 'for 4 hours'], ['86400000', 'for 1 day'], ['604800000', 'for 7 days'], ['at', 'until a time …']];

/**
 * Overrides a limit's amount for one key. `limit` is an item of `api/v1/limits`. With `look`, it has only a name, and
 * the rest is read.
 */
export function overrideLimit({ limit: known, key, look = false }, done) {
  act(async () => {
    const limit = (look && (await read('limits')).limits.find((one) => one.name === known.name)) || known;
    const { overrides } = await read('overrides', { limit: limit.name, page_size: 1000 });
    const present = overrides.find((one) => one.key === key);
    const shown = (n) => `${f.amountOf(n, limit.counts)}${limit.per ? ` per ${limit.per}` : ' at once'}`;
    const before = present ? (present.unlimited ? 'unlimited' : shown(present.amount)) : `${shown(limit.amount)} (as configured)`;
    const how = h('select', {}, option('amount', 'Another amount'), option('unlimited', 'No limit at all'));
    const much = amountField(limit.counts, 'How much');
    const until = h('select', {}, UNTIL.map(([value, text]) => option(value, text)));
    const at = h('input', { type: 'datetime-local' });
    const atField = field('Until (local time)', at);
    const expires = () => (until.value === '' ? 0 : until.value === 'at' ? new Date(at.value).getTime() : Date.now() + Number(until.value));
    return {
      title: `Limit ${limit.name} of ${key}`,
      about: 'Takes effect on every sidecar within a quarter of a KeepAlive interval. Earlier counts stay.',
      fields: [field('Instead', how), much.element, field('How long', until), atField],
      note: false,
      state() {
        const free = how.value === 'unlimited';
        show(much.element, !free);
        show(atField, until.value === 'at');
        const n = much.value();
        const end = expires();
        const known = free || !Number.isNaN(n);
        const fault = !known ? 'How much: must be a number of 0 or more.' : Number.isNaN(end) || (end && end <= Date.now()) ? 'Until: must be a future time.' : null;
        const long = end && !fault ? `, until ${f.time(end)}` : '';
        const after = !known ? '?' : `${free ? 'unlimited' : shown(n)}${long}`;
        return {
          before, after, fault, confirm: known ? `Override: ${free ? 'unlimited' : shown(n)}` : 'Enter an amount',
          what: 'override.set', target: `${limit.name}/${key}`,
          call: () => ({ method: 'PUT', path: `overrides/${segment(limit.name)}/${segment(key)}`, body: { ...(free ? { unlimited: true } : { amount: n }), expires_at_ms: end } }),
        };
      },
    };
  }, done);
}

export function forgetOverride(override, counts, done) {
  act(async () => ({
    title: `Override of ${override.limit} for ${override.key}`,
    about: 'The configured amount applies again.',
    fields: [], note: false,
    state: () => ({
      before: override.unlimited ? 'unlimited' : f.amountOf(override.amount, counts), after: 'as configured', confirm: 'Remove it', tone: 'bad',
      what: 'override.delete', target: `${override.limit}/${override.key}`,
      call: () => ({ method: 'DELETE', path: `overrides/${segment(override.limit)}/${segment(override.key)}` }),
    }),
  }), done);
}

export function drainEndpoint({ pool, endpoint }, done) {
  act(async () => {
    const where = h('select', {}, option('pool', `In the pool ${f.poolName(pool)}`), option('all', 'In every pool'));
    return {
      title: `Drain ${endpoint.address}`,
      about: `Its ${f.plural(endpoint.in_flight, 'request')} in flight will finish; new ones go elsewhere.`,
      fields: [field('Where', where)],
      state() {
        const of = where.value === 'all' ? {} : { route: pool.route, cluster: pool.cluster };
        return {
          before: 'gets requests', after: where.value === 'all' ? 'gets no new requests, in any pool' : 'gets no new requests',
          confirm: 'Drain the endpoint', tone: 'bad', what: 'endpoint.drain', target: endpoint.address,
          call: (note) => ({ method: 'POST', path: 'drains', body: { endpoint: endpoint.address, ...of, note } }),
        };
      },
    };
  }, done);
}

/** Ends a drain. `drain` is an item of `api/v1/drains`. */
export function undrainEndpoint(drain, done) {
  act(async () => undrainPlan(drain), done);
}

/** Ends the drain of a pool's endpoint: the drain in this pool if there is one, otherwise the drain in every pool. */
export function undrainIn({ pool, endpoint }, done) {
  act(async () => {
    const { drains } = await read('drains');
    const of = (drain) => drain.pool ?? {};
    const mine = drains.filter((drain) => drain.endpoint === endpoint.address);
    const drain = mine.find((one) => of(one).cluster === pool.cluster && (of(one).route ?? '') === pool.route) ?? mine.find((one) => !of(one).cluster);
    if (!drain) throw new ApiError(404, `${endpoint.address} is not drained any more.`);
    return undrainPlan(drain);
  }, done);
}

function undrainPlan(drain) {
  const { route = '', cluster = '' } = drain.pool ?? {};
  const where = cluster ? `In the pool ${f.poolName({ route, cluster })}.` : 'In every pool.';
  return {
    title: `Give ${drain.endpoint} requests again`,
    about: `${where} Drained by ${drain.who}, ${f.relative(drain.at_ms)}${drain.note ? `: “${drain.note}”` : ''}.`,
    fields: [], note: false,
    state: () => ({
      before: 'gets no new requests', after: 'gets requests', confirm: 'Give it requests again', what: 'endpoint.undrain', target: drain.endpoint,
      call: () => ({ method: 'DELETE', path: 'drains', parameters: { endpoint: drain.endpoint, route, cluster } }),
    }),
  };
}
