// The administrator's token. The page asks for it when a change needs it, stores it only in this tab, and never writes
// it into an address.

import { ApiError, change } from './api.js';
import { faultLine, field, openDialog } from './dialog.js';
import { h } from './dom.js';
import { announce } from './ui.js';

const KEPT_AS = 'evenkeel-admin-token';
const listeners = new Set();
let configured = true;
let name = '';

const kept = () => {
  try {
    return sessionStorage.getItem(KEPT_AS) ?? '';
  } catch {
    return '';
  }
};
let token = kept();

const keep = (next, whose) => {
  token = next;
  name = whose;
  try {
    if (next) sessionStorage.setItem(KEPT_AS, next);
    else sessionStorage.removeItem(KEPT_AS);
  } catch {
    // If the browser forbids storage, the token is lost when the page is reloaded.
  }
  listeners.forEach((listener) => listener({ token, name }));
};

/** Returns the token, if there is one. */
export const adminToken = () => token;

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
  keep('', '');
  announce('The token is forgotten');
}

/** Returns the administrator's name. Throws the sidecar's error if the token is wrong. */
export async function whose(candidate) {
  const answer = await change('GET', 'whoami', {}, undefined, candidate);
  return answer.name;
}

/** Checks the stored token, because the configuration may no longer contain it. */
export async function check() {
  if (!token) return;
  try {
    keep(token, await whose(token));
  } catch (error) {
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) keep('', '');
  }
}

/** Asks for a token if there is none, and then calls `then`. */
export function withToken(then) {
  if (token) then();
  else askForToken(then);
}

/**
 * Opens a dialog. If there is no token, the dialog asks for one. Otherwise it shows the administrator's name and can
 * forget the token.
 */
export function askForToken(then) {
  openDialog((close) => {
    if (!configured) return { title: 'Changes are not possible here', content: notConfigured() };
    return token ? held(close) : asked(close, then);
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
  const content = h('div', { class: 'dialog-body' }, h('p', { text: `${whoseWords} Every change is logged under that name.` }),
    h('div', { class: 'dialog-actions' }, button));
  return { title: 'Administrator', content, first: button };
}

function asked(close, then) {
  const input = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true });
  const fault = faultLine();
  const send = h('button', { type: 'submit', class: 'primary', text: 'Use this token' });
  const cancel = h('button', { type: 'button', text: 'Cancel', on: { click: close } });
  const form = h('form', { class: 'dialog-body', novalidate: true },
    h('p', { text: 'Reading needs no token. Changing quotas, limits and endpoints needs an administrator\u2019s token.' }),
    field('Token', input, 'Kept in this tab until you close the tab or forget the token; sent only with your changes.'),
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
      keep(candidate, await whose(candidate));
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
  return { title: 'Administrator\u2019s token', content: form, first: input };
}
