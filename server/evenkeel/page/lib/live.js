// Watches the pools through one stream of events, and opens the stream again when it breaks.

import { ApiError, events } from './api.js';

/** Time without an event after which the stream counts as lost. The sidecar sends an event at least every 2 s. */
const SILENT_AFTER_MS = 5000;
const AGAIN_MIN_MS = 500;
const AGAIN_MAX_MS = 3000;

const needsToken = ({ status }) => status === 401 || status === 403;

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
    close();
    clearTimeout(watchdog);
    clearTimeout(again);
    again = setTimeout(open, wait);
    wait = Math.min(wait * 2, AGAIN_MAX_MS);
  };
  const broke = (error) => {
    if (error instanceof ApiError && error.status >= 400 && error.status < 500 && !needsToken(error) && Object.keys(parameters).length > 0) {
      parameters = {};
      open();
      onRefused();
      return;
    }
    lost();
  };
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(lost, SILENT_AFTER_MS);
  };
  const close = () => {
    source?.abort();
    source = null;
  };
  const open = async () => {
    close();
    if (document.hidden) return;
    const mine = new AbortController();
    source = mine;
    alive();
    let failure = null;
    try {
      await events('watch', parameters, mine.signal, (name, data) => {
        if (source !== mine) return;
        alive();
        wait = AGAIN_MIN_MS;
        become('live');
        onEvent(name, data);
      });
    } catch (error) {
      failure = error;
    }
    if (source === mine) broke(failure);
  };

  // A browser opens few connections to one server, so a hidden tab leaves them to the visible tabs.
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) {
      if (!source) open();
      return;
    }
    clearTimeout(watchdog);
    clearTimeout(again);
    close();
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
