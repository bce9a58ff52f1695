// Calls the sidecar's JSON API. All addresses are relative, so that the page works below any path.

/** A failed call, with the server's message and HTTP status. The status is 0 if there was no answer. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The token that goes with every call; empty if there is none. */
let token = '';
const rejected = new Set();

/** Sends this token with every further call. */
export function useToken(next) {
  token = next;
}

/** Returns whether there is a token. */
export const hasToken = () => token !== '';

/** Calls `listener()` whenever the sidecar rejects a call because the caller may not even look. */
export function onRejected(listener) {
  rejected.add(listener);
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

/** Sends a change. */
export const change = (method, path, parameters, body) => call(method, address(path, parameters), { body });

/** Returns the name and the roles of whoever has this token. Throws the sidecar's error if it belongs to nobody. */
export const whoAmI = (candidate) => call('GET', address('whoami'), { candidate });

/** Sends a request. The response may be an error. */
async function send(method, url, { body, candidate = token, signal } = {}) {
  const headers = {};
  // Do not use Authorization: behind a proxy with a login, that header carries the proxy's credentials.
  if (candidate) headers['x-evenkeel-token'] = candidate;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  try {
    return await fetch(url, {
      method, headers, signal, cache: 'no-store', body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, 'no answer from the sidecar');
  }
}

async function call(method, url, options) {
  const response = await send(method, url, options);
  if (response.status === 204) return null;
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
  }
  if (!response.ok) {
    if (method === 'GET' && options.candidate === undefined) notice(response.status);
    throw new ApiError(response.status, answer?.error?.message ?? `status ${response.status}`);
  }
  return answer;
}

function notice(status) {
  if (status === 401 || status === 403) rejected.forEach((listener) => listener());
}

/**
 * Reads a stream of server-sent events, and calls `take(name, data)` for each. Returns when the stream ends. The browser's
 * own EventSource cannot send a token.
 */
export async function events(path, parameters, signal, take) {
  const response = await send('GET', address(path, parameters), { signal });
  if (!response.ok) {
    notice(response.status);
    throw new ApiError(response.status, `status ${response.status}`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split('\n\n');
    text = parts.pop();
    for (const part of parts) {
      const fields = part.split('\n').map((line) => line.split(/: ?(.*)/s));
      const of = (name) => fields.filter(([known]) => known === name).map(([, rest]) => rest);
      const [name] = of('event');
      if (name) take(name, JSON.parse(of('data').join('\n')));
    }
  }
}

/** Saves the response as a file. A link cannot send a token. */
export async function download(url, name) {
  const response = await send('GET', url);
  if (!response.ok) throw new ApiError(response.status, `status ${response.status}`);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  // The browser has taken the data by the next turn of its loop.
  setTimeout(() => URL.revokeObjectURL(link.href));
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
