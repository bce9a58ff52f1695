// The part of the address after #: which view, and how it is sorted, filtered and paged. So links can be shared, and
// the browser's own back and forward work.

/** What the address says now. */
export function current() {
  const [path, query] = location.hash.replace(/^#/, '').split('?');
  return { path: path || '/', params: Object.fromEntries(new URLSearchParams(query ?? '')) };
}

/** An address; empty parameters are left out. */
export function link(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== '' && value !== null && value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return `#${path}${text ? `?${text}` : ''}`;
}

/** Goes there; `replace` where it should be no step of the browser's back button. */
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

/** Parameters that say which page of a list: of the view's first list, or with a letter before them of its second. */
const PAGED = /^[a-z]?(page|n)$/;

/** The parameters without any page: what is filtered otherwise begins at the first one. */
export const unpaged = (params) => Object.fromEntries(Object.entries(params).filter(([name]) => !PAGED.test(name)));

/** Changes some parameters of the present view. A changed filter begins at the first page of every list. */
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
