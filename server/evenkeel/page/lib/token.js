// The administrator's token: asked for where one is needed, kept in this tab alone, never in an address.

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
    // Storage may be turned off; the token then lasts as long as the page.
  }
  listeners.forEach((listener) => listener({ token, name }));
};

/** The token, or nothing. */
export const adminToken = () => token;

/** Calls `listener({token, name})` now and when it changes. */
export function onToken(listener) {
  listeners.add(listener);
  listener({ token, name });
}

/** Whether the sidecar has administrators at all. */
export function setConfigured(is) {
  configured = is;
}

/** Forgets it. */
export function forget() {
  keep('', '');
  announce('The token is forgotten');
}

/** The name of the administrator; throws the sidecar's error for a wrong token. */
export async function whose(candidate) {
  const answer = await change('GET', 'whoami', {}, undefined, candidate);
  return answer.name;
}

/** A token kept from before may be of yesterday. */
export async function check() {
  if (!token) return;
  try {
    keep(token, await whose(token));
  } catch (error) {
    if (error instanceof ApiError && (error.status === 401 || error.status === 403)) keep('', '');
  }
}

/** Asks for it, unless it is known; then goes on with `then`. */
export function withToken(then) {
  if (token) then();
  else askForToken(then);
}

/** The dialog: takes a token, shows the administrator's name, forgets the token. */
export function askForToken(then) {
  openDialog((close) => {
    if (!configured) return { title: 'Changes are not possible here', content: notConfigured() };
    return token ? held(close) : asked(close, then);
  });
}

function notConfigured() {
  return h('div', { class: 'dialog-body' },
    h('p', { text: 'This sidecar names no administrators, so it refuses every change. Give them tokens in its configuration:' }),
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
    h('p', { text: 'Looking needs nothing. Changing quotas, limits and endpoints needs the token of an administrator.' }),
    field('Token', input, 'Kept in this tab until it is closed or you forget it; sent only with your changes.'),
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
