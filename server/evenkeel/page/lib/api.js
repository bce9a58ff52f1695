// Calls the sidecar's JSON API. All addresses are relative, so that the page works below any path.

/** A failed call, with the server's message and HTTP status. The status is 0 if there was no answer. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Returns `api/v1/<path>?<parameters>` without empty parameters. */
export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== '' && value !== null && value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return `api/v1/${path}${text ? `?${text}` : ''}`;
}

/** Escapes one segment of a path. */
export const segment = (text) => encodeURIComponent(text);

export const read = (path, parameters, signal) => call('GET', address(path, parameters), { signal });

/** Sends a change with the administrator's token. */
export const change = (method, path, parameters, body, token) => call(method, address(path, parameters), { body, token });

async function call(method, url, { body, token, signal }) {
  const headers = {};
  // Do not use Authorization: behind a proxy with a login, that header carries the proxy's credentials.
  if (token) headers['x-evenkeel-token'] = token;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(url, {
      method, headers, signal, cache: 'no-store', body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'no answer from the sidecar');
  }
  if (response.status === 204) return null;
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
  }
  if (!response.ok) throw new ApiError(response.status, answer?.error?.message ?? `status ${response.status}`);
  return answer;
}

/**
 * Polls while the page is visible. Passes the data that `load(signal)` returns to `take`, and errors to `fail`. A new
 * read aborts the previous read if it is still in progress.
 */
export function poll(load, take, fail, everyMs) {
  let timer = 0;
  let running = null;
  let stopped = false;
  let last = 0;
  const refresh = async () => {
    clearTimeout(timer);
    running?.abort();
    const mine = new AbortController();
    running = mine;
    last = Date.now();
    try {
      const data = await load(mine.signal);
      if (!stopped && running === mine) take(data);
    } catch (error) {
      if (error.name !== 'AbortError' && !stopped && running === mine) {
        if (!(error instanceof ApiError)) throw error;
        fail(error);
      }
    } finally {
      if (!stopped && running === mine) {
        running = null;
        timer = setTimeout(tick, everyMs());
      }
    }
  };
  const tick = () => {
    if (document.hidden) timer = setTimeout(tick, 1000);
    else refresh();
  };
  const seen = () => {
    if (!document.hidden && Date.now() - last > everyMs()) refresh();
  };
  document.addEventListener('visibilitychange', seen);
  return {
    refresh,
    stop() {
      stopped = true;
      clearTimeout(timer);
      running?.abort();
      document.removeEventListener('visibilitychange', seen);
    },
  };
}
