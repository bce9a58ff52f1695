// Formats numbers and times for the browser's locale.

const plain = new Intl.NumberFormat();
const tenth = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const hundredth = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const minuteClock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const dayClock = new Intl.DateTimeFormat(undefined, {
  day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23',
});

/** Formats a whole number: 12,345 */
export const int = (n) => plain.format(n);

/** Formats a number with a unit as in the configuration: 12.3k, 4.5M. Below ten thousand, shows all digits. */
export function compact(n) {
  if (Math.abs(n) < 10_000) return plain.format(Math.round(n));
  const [size, unit] = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']].find(([least]) => Math.abs(n) >= least * 0.99995);
  return `${tenth.format(n / size)}${unit}`;
}

/** Formats a rate with about three significant digits: 0.42, 12.3, 1,234 */
export function rate(n) {
  if (n === 0) return '0';
  if (n < 0.01) return '<0.01';
  if (n < 10) return hundredth.format(n);
  return n < 100 ? tenth.format(n) : plain.format(Math.round(n));
}

/** Formats a fraction as a percentage: 0.153 → 15.3 % */
export const percent = (share) => `${share > 0 && share < 0.001 ? '<0.1' : tenth.format(share * 100)}\u202f%`;

const cents = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const small = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 4 });

/** Formats a cost in millionths of the price table's currency. The configuration does not name the currency. */
export function money(millionths) {
  const value = millionths / 1e6;
  return (value !== 0 && Math.abs(value) < 0.1 ? small : cents).format(value);
}

const UNITS = { requests: 'requests', tokens: 'tokens', input_tokens: 'input tokens', output_tokens: 'output tokens' };

/** Formats an amount of a limit or quota, without its unit. */
export const amount = (n, counts) => (counts === 'cost' ? money(n) : int(n));

/** Formats an amount like `amount`, but shorter. */
export const amountShort = (n, counts) => (counts === 'cost' ? money(n) : compact(n));

/** Returns what a limit or quota counts, in words. */
export const unit = (counts) => (counts === 'cost' ? 'cost, in the currency of the prices' : UNITS[counts] ?? '');

/** Formats an amount with its unit. */
export const amountOf = (n, counts) => (counts === 'cost' ? money(n) : `${int(n)} ${UNITS[counts] ?? ''}`.trim());

/** Formats a duration: 350 ms, 4.2 s, 3 min, 2 h 10 min, 5 d 3 h */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10) return `${tenth.format(s)} s`;
  if (s < 100) return `${Math.round(s)} s`;
  const minutes = Math.round(s / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 && hours < 10 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 && days < 10 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/** Formats the time since or until a moment. */
export function relative(atMs, nowMs = Date.now()) {
  const gone = nowMs - atMs;
  if (Math.abs(gone) < 1500) return 'now';
  const words = duration(Math.floor(Math.abs(gone) / 1000) * 1000);
  return gone > 0 ? `${words} ago` : `in ${words}`;
}

/** Formats a local time, with the day unless it is today. */
export function time(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock.format(date) : dayClock.format(date);
}

/** Formats a local time to the minute, with the day unless it is today. */
export function minute(ms) {
  const date = new Date(ms);
  return (date.toDateString() === new Date().toDateString() ? minuteClock : dayClock).format(date);
}

/** Formats a time in UTC to the second, for titles. */
export const utc = (ms) => `${new Date(ms).toISOString().slice(0, 19).replace('T', ' ')} UTC`;

/** Formats a day in UTC as in the usage ledger: 2026-11-21 */
export const day = (ms) => new Date(ms).toISOString().slice(0, 10);

/** Formats a number with its noun: 1 endpoint, 2 endpoints */
export const plural = (n, one, many = `${one}s`) => `${int(n)} ${n === 1 ? one : many}`;

/** Returns the name of a pool. */
export const poolName = (pool) => (pool.route ? `${pool.cluster} · ${pool.route}` : pool.cluster);

/** Returns a name, or a placeholder for an empty name. */
export const named = (name) => (name === '' || name === undefined ? '(none)' : name);
