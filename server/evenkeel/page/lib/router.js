// The fragment of the address contains the view, its sort order, its filters and its page. Links can therefore be
// shared, and the browser's back and forward buttons work.

/** Returns the view and parameters of the current address. */
export function current() {
  const [path, query] = location.hash.replace(/^#/, '').split('?');
  return { path: path || '/', params: Object.fromEntries(new URLSearchParams(query ?? '')) };
}

/** Returns the address of a view, without empty parameters. */
export function link(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== '' && value !== null && value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return `#${path}${text ? `?${text}` : ''}`;
}

/** Opens an address. With `replace`, adds no entry to the browser's history. */
export function go(path, params, { replace = false } = {}) {
  const to = link(path, params);
  if (to === location.hash) return;
  if (replace) {
    history.replaceState(null, '', to);
    window.dispatchEvent(new HashChangeEvent('hashchange'));
  } else {
    location.hash = to;
  }
}

/** The parameters that select the page of a list. A prefix letter marks the parameters of the view's second list. */
const PAGED = /^[a-z]?(page|n)$/;

/** Removes the page parameters, because a changed filter starts at the first page. */
export const unpaged = (params) => Object.fromEntries(Object.entries(params).filter(([name]) => !PAGED.test(name)));

/** Changes some parameters of the current view. If a filter changes, every list starts at its first page. */
export function patch(changes, options) {
  const { path, params } = current();
  const turns = Object.keys(changes).some((name) => PAGED.test(name));
  go(path, { ...(turns ? params : unpaged(params)), ...changes }, options);
}

/** Calls `take` now and whenever the address changes. */
export function follow(take) {
  window.addEventListener('hashchange', () => take(current()));
  take(current());
}
