// The caller's token. The page asks for it when a change needs it, or when the sidecar lets nobody look without one. It
// stores the token only in this tab, and never writes it into an address.

import { ApiError, onRejected, useToken, whoAmI } from './api.js';
import { faultLine, field, openDialog } from './dialog.js';
import { h } from './dom.js';
import { announce } from './ui.js';

const KEPT_AS = 'evenkeel-token';
const listeners = new Set();
let configured = true;
let name = '';
/** Whether the token may change something. Assumed until the sidecar has said so. */
let isAdmin = true;
/** Whether the page has asked for a token to look. It asks only once, because the reader may have closed the dialog. */
let asked = false;

const kept = () => {
  try {
    return sessionStorage.getItem(KEPT_AS) ?? '';
  } catch {
    return '';
  }
};
let token = kept();
useToken(token);

const keep = (next, { name: whose = '', roles = [] } = {}) => {
  token = next;
  name = whose;
  isAdmin = roles.includes('admin');
  useToken(next);
  try {
    if (next) sessionStorage.setItem(KEPT_AS, next);
    else sessionStorage.removeItem(KEPT_AS);
  } catch {
    // If the browser forbids storage, the token is lost when the page is reloaded.
  }
  listeners.forEach((listener) => listener({ token, name }));
};

/** Calls `listener({token, name})` now and whenever the token changes. */
export function onToken(listener) {
  listeners.add(listener);
  listener({ token, name });
}

/** Records whether the sidecar has administrators. */
export function setConfigured(is) {
  configured = is;
}

export function forget() {
  keep('');
  announce('The token is forgotten');
}

/** Checks the stored token, because the configuration may no longer contain it. */
export async function check() {
  if (!token) return;
  try {
    keep(token, await whoAmI(token));
  } catch (error) {
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) keep('');
  }
}

/** Asks for an administrator's token if there is none, and then calls `then`. */
export function withToken(then) {
  if (token && isAdmin) then();
  else askForToken(then);
}

onRejected(() => {
  if (asked || token) return;
  asked = true;
  openDialog((close) => ask(close, { title: 'A token is needed', about: 'This sidecar shows its figures only with a token: that of a reader or an administrator.' }));
});

/**
 * Opens a dialog. If there is no token, or `then` needs another one, the dialog asks for one. Otherwise it shows whose
 * token it is and can forget the token.
 */
export function askForToken(then) {
  openDialog((close) => {
    if (token && !then) return held(close);
    if (!configured) return { title: 'Changes are not possible here', content: notConfigured() };
    const about = 'Changing quotas, limits and endpoints needs an administrator\u2019s token.';
    return ask(close, { title: 'Administrator\u2019s token', about, then });
  });
}

function notConfigured() {
  return h('div', { class: 'dialog-body' },
    h('p', { text: 'This sidecar names no administrators, so it refuses every change. Add tokens to its configuration:' }),
    h('pre', { tabindex: '0' }, h('code', { text: 'admin:\n  tokens:\n    - {name: ops, token_file: /run/secrets/evenkeel-ops}' })));
}

function held(close) {
  const button = h('button', { type: 'button', class: 'primary', text: 'Forget the token' });
  button.addEventListener('click', () => {
    forget();
    close();
  });
  const whoseWords = name ? `This tab acts as "${name}".` : 'This tab has a token.';
  const mayWords = isAdmin ? 'Every change is logged under that name.' : 'It may look, and change nothing.';
  const content = h('div', { class: 'dialog-body' }, h('p', { text: `${whoseWords} ${mayWords}` }),
    h('div', { class: 'dialog-actions' }, button));
  return { title: isAdmin ? 'Administrator' : 'Reader', content, first: button };
}

function ask(close, { title, about, then }) {
  const input = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true });
  const fault = faultLine();
  const send = h('button', { type: 'submit', class: 'primary', text: 'Use this token' });
  const cancel = h('button', { type: 'button', text: 'Cancel', on: { click: close } });
  const form = h('form', { class: 'dialog-body', novalidate: true },
    h('p', { text: about }),
    field('Token', input, 'Kept in this tab until you close the tab or forget the token; sent only to this sidecar.'),
    fault.element, h('div', { class: 'dialog-actions' }, cancel, send));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const candidate = input.value.trim();
    if (!candidate) {
      fault.set('Enter a token.');
      return;
    }
    send.disabled = true;
    try {
      const caller = await whoAmI(candidate);
      if (then && !caller.roles.includes('admin')) {
        fault.set('This token may look, and change nothing. Enter an administrator\u2019s token.');
        input.focus();
        return;
      }
      keep(candidate, caller);
      close();
      announce(`Acting as ${name}`);
      then?.();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fault.set(error.message);
      input.focus();
    } finally {
      send.disabled = false;
    }
  });
  return { title, content: form, first: input };
}
