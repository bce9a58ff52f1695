// The dialog of a change. It shows the effect and asks for a note and a confirmation. Then it shows the result, with
// the line of the change log.

import { ApiError, change, read } from './api.js';
import { beforeAfter, faultLine, field, openDialog } from './dialog.js';
import { h, setText } from './dom.js';
import * as f from './format.js';
import { withToken } from './token.js';
import { announce } from './ui.js';

/**
 * Opens the dialog of a change. First asks for a token if there is none.
 * `prepare()` reads the current state and returns `{title, about, fields, state(), note}`. After each input, the dialog
 * calls `state()`, which returns `{before, after, confirm, tone, fault, call: {method, path, parameters, body}, what,
 * target}`. After the change, the dialog calls `done()`.
 */
export function act(prepare, done) {
  withToken(async () => {
    let plan;
    try {
      plan = await prepare();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      plan = null;
      openDialog(() => ({ title: 'This cannot be changed now', content: h('div', { class: 'dialog-body' }, h('p', { class: 'fault', role: 'alert', text: error.message })) }));
    }
    if (plan) openDialog((close) => form(plan, close, done));
  });
}

function form(plan, close, done) {
  const difference = beforeAfter();
  const fault = faultLine();
  const note = h('input', { type: 'text', maxlength: '200', autocomplete: 'off' });
  const confirm = h('button', { type: 'submit' });
  const cancel = h('button', { type: 'button', text: 'Cancel', on: { click: close } });
  const noteField = plan.note === false ? null : field('Why (optional)', note, 'Kept with the change, and shown under Changes.');
  const element = h('form', { class: 'dialog-body', novalidate: true },
    plan.about ? h('p', { text: plan.about }) : null, plan.fields, h('div', { class: 'change' }, difference.element), noteField,
    fault.element, h('div', { class: 'dialog-actions' }, cancel, confirm));
  const refresh = () => {
    const state = plan.state();
    difference.set(state.before, state.after);
    setText(confirm, state.confirm);
    confirm.className = state.tone === 'bad' ? 'danger' : 'primary';
    return state;
  };
  element.addEventListener('input', () => {
    fault.set(null);
    refresh();
  });
  element.addEventListener('submit', async (event) => {
    event.preventDefault();
    const state = refresh();
    if (state.fault) {
      fault.set(state.fault);
      return;
    }
    confirm.disabled = true;
    try {
      const { method, path, parameters, body } = state.call(note.value.trim());
      // Read the newest line of the same kind before the change, to recognise the new line. This computer's clock may
      // be wrong.
      const before = await changeLine(state);
      await change(method, path, parameters, body);
      const after = await changeLine(state);
      const line = after && after.at_ms !== before?.at_ms ? after : null;
      element.replaceWith(result(state, line, close));
      announce(`Done: ${state.what} ${state.target}`);
      done?.();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      fault.set(error.status ? `${error.message} (${error.status})` : error.message);
    } finally {
      confirm.disabled = false;
    }
  });
  refresh();
  const first = element.querySelector('input, select') ?? confirm;
  return { title: plan.title, content: element, first };
}

function result(state, line, close) {
  const button = h('button', { type: 'button', class: 'primary', text: 'Close', on: { click: close } });
  const element = h('div', { class: 'dialog-body result', role: 'status' },
    h('p', {}, h('strong', { text: 'Done. ' }), line ? 'The change log shows:' : 'The sidecar\u2019s log has the change.'),
    line ? changeText(line) : null, h('div', { class: 'dialog-actions' }, button));
  // Focus works only once the element is in the page.
  queueMicrotask(() => button.focus());
  return element;
}

/** Creates an element with one line of the change log. */
export function changeText(line) {
  const text = `${f.time(line.at_ms)}  ${line.who}  ${line.what}  ${line.target}  ${line.before || '–'} → ${line.after || '–'}`;
  return h('pre', { class: 'change-line', tabindex: '0' }, h('code', { text: line.note ? `${text}  “${line.note}”` : text }));
}

/** Returns whether a line is about a target. In the line of a drain, the pool follows the endpoint. */
const isOf = (line, target) => line.target === target || (line.what.startsWith('endpoint.') && line.target.startsWith(`${target} in `));

/** Returns the newest matching line of the change log, or null. */
async function changeLine({ what, target }) {
  try {
    const { changes } = await read('changes', { page_size: 20 });
    return changes.find((line) => line.what === what && isOf(line, target)) ?? null;
  } catch (error) {
    if (error instanceof ApiError) return null;
    throw error;
  }
}
