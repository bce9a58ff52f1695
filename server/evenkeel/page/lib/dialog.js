// Dialogs. The browser keeps the focus inside an open dialog. The focus then returns to where it was before.

import { h, setText, show, uniqueId } from './dom.js';

/** Opens a dialog. `build(close)` returns `{title, content, first}`; `first` gets the focus. */
export function openDialog(build) {
  const from = document.activeElement;
  const id = uniqueId('dialog');
  const heading = h('h2', { id });
  const dismiss = h('button', { type: 'button', class: 'dismiss', 'aria-label': 'Close', text: '×' });
  const dialog = h('dialog', { 'aria-labelledby': id }, h('div', { class: 'dialog-head' }, heading, dismiss));
  const close = () => dialog.close();
  const { title, content, first } = build(close);
  setText(heading, title);
  dialog.append(content);
  dismiss.addEventListener('click', close);
  dialog.addEventListener('close', () => {
    dialog.remove();
    // The page may have removed that element in the meantime.
    if (from?.isConnected) from.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  first?.focus();
  return { close, dialog };
}

/** Creates a form field with a label and a help text. */
export function field(label, input, help) {
  const id = uniqueId('field');
  input.id = id;
  const note = help ? h('p', { class: 'help', id: `${id}-help`, text: help }) : null;
  if (help) input.setAttribute('aria-describedby', `${id}-help`);
  return h('div', { class: 'field' }, h('label', { for: id, text: label }), input, note);
}

/** Creates a line that shows a value before and after a change. */
export function beforeAfter() {
  const before = h('span', { class: 'before' });
  const after = h('span', { class: 'after' });
  const element = h('p', { class: 'before-after', 'aria-live': 'polite' },
    h('span', { class: 'hidden-label', text: 'now ' }), before, h('span', { class: 'arrow-word', 'aria-hidden': 'true', text: '→' }),
    h('span', { class: 'hidden-label', text: ', then ' }), after);
  return {
    element,
    set(was, will) {
      setText(before, was);
      setText(after, will);
    },
  };
}

/** Creates the line of a dialog that shows an error. */
export function faultLine() {
  const element = h('p', { class: 'fault', role: 'alert', hidden: true });
  return {
    element,
    set(message) {
      show(element, Boolean(message));
      setText(element, message ?? '');
    },
  };
}
