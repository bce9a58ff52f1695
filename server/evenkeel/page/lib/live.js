// Watches the pools through one stream of events, and opens the stream again when it breaks.

import { address } from './api.js';

/** Time without an event after which the stream counts as lost. The sidecar sends an event at least every 2 s. */
const SILENT_AFTER_MS = 5000;
const AGAIN_MIN_MS = 500;
const AGAIN_MAX_MS = 3000;

/**
 * Calls `onEvent(name, data)` for each event, `onState('connecting' | 'live' | 'lost')` when the state changes, and
 * `onRefused()` if the sidecar rejects the parameters. After a rejection, the stream contains only the overview.
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
    // The browser does not retry after an error response, such as a proxy's 503.
    again = setTimeout(open, wait);
    wait = Math.min(wait * 2, AGAIN_MAX_MS);
  };
  // EventSource does not report the status of an error response, so send a plain request to learn the status.
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
      // The sidecar does not answer.
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

  // A browser opens few connections to one server, so a hidden tab leaves them to the visible tabs.
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
    /** Adds a pool's endpoints to the watch. Without parameters, watches only the overview. */
    watch(next) {
      if (source && JSON.stringify(next) === JSON.stringify(parameters)) return;
      parameters = next;
      clearTimeout(again);
      open();
    },
  };
}
