// The watch: one stream of events, reopened when it breaks off.

import { address } from './api.js';

/** The sidecar sends something at least every 2 s. */
const SILENT_AFTER_MS = 5000;
const AGAIN_MIN_MS = 500;
const AGAIN_MAX_MS = 3000;

/**
 * `onEvent(name, data)` for each event, `onState('connecting' | 'live' | 'lost')` where that changes, `onRefused()` where
 * the sidecar rejects the parameters: the stream then has the overview alone.
 */
export function live(onEvent, onState, onRefused) {
  let source = null;
  let parameters = {};
  let state = '';
  let watchdog = 0;
  let again = 0;
  let wait = AGAIN_MIN_MS;

  const become = (next) => {
    if (next === state) return;
    state = next;
    onState(next);
  };
  const lost = () => {
    become('lost');
    source?.close();
    source = null;
    clearTimeout(watchdog);
    clearTimeout(again);
    // The browser retries automatically, but not after an answer such as 503 of a proxy in between.
    again = setTimeout(open, wait);
    wait = Math.min(wait * 2, AGAIN_MAX_MS);
  };
  // A stream that was answered with an error says no more than one that was not answered: ask once more how it is.
  const broke = async () => {
    const mine = source;
    if (mine?.readyState !== EventSource.CLOSED || Object.keys(parameters).length === 0) {
      lost();
      return;
    }
    const probe = new AbortController();
    let status = 0;
    try {
      ({ status } = await fetch(address('watch', parameters), { signal: probe.signal, cache: 'no-store' }));
    } catch {
      // No answer at all.
    }
    probe.abort();
    if (source !== mine) return;
    if (status < 400 || status >= 500) {
      lost();
      return;
    }
    parameters = {};
    open();
    onRefused();
  };
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(lost, SILENT_AFTER_MS);
  };
  const take = (name) => (event) => {
    alive();
    wait = AGAIN_MIN_MS;
    become('live');
    onEvent(name, JSON.parse(event.data));
  };
  const open = () => {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource(address('watch', parameters));
    source.addEventListener('overview', take('overview'));
    source.addEventListener('endpoints', take('endpoints'));
    source.addEventListener('error', broke);
    alive();
  };

  // A browser has few connections to one server: a tab that nobody looks at leaves them to the others.
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) {
      if (!source) open();
      return;
    }
    clearTimeout(watchdog);
    clearTimeout(again);
    source?.close();
    source = null;
  });

  become('connecting');
  return {
    /** Also this pool's endpoints, or, without parameters, the overview alone. */
    watch(next) {
      if (source && JSON.stringify(next) === JSON.stringify(parameters)) return;
      parameters = next;
      clearTimeout(again);
      open();
    },
  };
}
