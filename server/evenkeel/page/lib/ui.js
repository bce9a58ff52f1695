// Small parts that several views are made of.

import { h, setAttr, setText, show, uniqueId } from './dom.js';
import * as f from './format.js';

/** A time that says how long ago, with the exact one in its title. */
export function timeOf(kind = 'relative') {
  const element = h('time');
  return {
    element,
    set(ms) {
      if (!ms) {
        setText(element, '–');
        return;
      }
      setAttr(element, 'datetime', new Date(ms).toISOString());
      setAttr(element, 'title', `${f.time(ms)} (${f.utc(ms)})`);
      setText(element, kind === 'relative' ? f.relative(ms) : f.time(ms));
    },
  };
}

/** How full: a bar, with the words beside it elsewhere, so that it is hidden from those who do not see it. */
export function loadBar() {
  const fill = h('span', { class: 'fill' });
  const element = h('span', { class: 'bar', 'aria-hidden': 'true' }, fill);
  return {
    element,
    /** `share` from 0 to 1; null where there is no bound. */
    set(share, level = levelOf(share)) {
      setAttr(element, 'data-level', level);
      const width = `${Math.round(Math.min(1, share ?? 0) * 1000) / 10}%`;
      if (fill.style.width !== width) fill.style.width = width;
    },
  };
}

/** full, high, or nothing of note. */
export function levelOf(share) {
  if (share === null || share === undefined) return 'unbounded';
  if (share >= 1) return 'full';
  return share >= 0.85 ? 'high' : 'ok';
}

/** A word with a coloured mark. */
export function badge() {
  const element = h('span', { class: 'badge' });
  return {
    element,
    set(text, tone = '') {
      setText(element, text);
      setAttr(element, 'data-tone', tone);
      show(element, text !== '');
    },
  };
}

/** A number with its name. */
export function stat(label, { href } = {}) {
  const value = h('dd', { class: 'stat-value' });
  const note = h('dd', { class: 'stat-note' });
  const term = h('dt', { class: 'stat-label' }, href ? h('a', { href, text: label }) : label);
  return {
    element: h('div', { class: 'stat' }, term, value, note),
    set(text, noteText = '', tone = '') {
      setText(value, text);
      setText(note, noteText);
      setAttr(value, 'data-tone', tone);
    },
  };
}

/** A part of a view with a heading; `problem` shows what could not be read. */
export function section(title, { actions, wide = false, note } = {}) {
  const id = uniqueId('part');
  const heading = h('h2', { id, text: title });
  const problem = h('p', { class: 'problem', hidden: true });
  const body = h('div', { class: 'section-body' });
  const element = h('section', { class: wide ? 'panel wide' : 'panel', 'aria-labelledby': id },
    h('div', { class: 'section-head' }, heading, note ? h('p', { class: 'section-note', text: note }) : null,
      actions ? h('div', { class: 'actions' }, actions) : null), problem, body);
  return {
    element, heading, body,
    /** What went wrong; nothing where all is well again. */
    fail(error) {
      show(problem, Boolean(error));
      element.classList.toggle('failed', Boolean(error));
      if (error) setText(problem, `Could not be read: ${error.message}`);
    },
  };
}

/** Nothing there: says so, and what to type to change that. */
export function empty(text, command) {
  return h('div', { class: 'empty' }, h('p', { text }), command ? h('pre', { tabindex: '0' }, h('code', { text: command })) : null);
}

/** The heading of a view, which takes the focus when one comes to it. */
export const viewHeading = (text) => h('h1', { tabindex: '-1', text });

/** One of several, as links: so each has an address. `options`: `[{value, label, href}]`. */
export function choice(label, options) {
  const links = options.map((option) => h('a', { class: 'choice', href: option.href, text: option.label }));
  const element = h('div', { class: 'choices', role: 'group', 'aria-label': label }, links);
  return {
    element,
    set(value, hrefs) {
      options.forEach((option, at) => {
        setAttr(links[at], 'aria-current', option.value === value ? 'true' : null);
        if (hrefs) setAttr(links[at], 'href', hrefs(option.value));
      });
    },
  };
}

/** A search field; calls `onChange` when typing pauses. */
export function searchField(label, onChange) {
  const id = uniqueId('search');
  let timer = 0;
  const input = h('input', { id, type: 'search', autocomplete: 'off', spellcheck: 'false', placeholder: label });
  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(() => onChange(input.value.trim()), 250);
  };
  input.addEventListener('input', changed);
  const element = h('div', { class: 'search' }, h('label', { for: id, class: 'hidden-label', text: label }), input);
  return {
    element, input,
    set(value) {
      if (document.activeElement !== input && input.value !== value) input.value = value;
    },
  };
}

const politely = () => document.getElementById('announcer');

/** Says something to those who do not see it; only what matters, never each tick. */
export function announce(text) {
  const region = politely();
  if (region) setText(region, text);
}

/** A link to a pool. */
export const REASONS = {
  admitted: 'admitted', pool_full: 'pool full', no_endpoints: 'no endpoints', limit: 'limit', quota: 'quota',
  store_unavailable: 'store down', overloaded: 'overloaded', invalid: 'invalid',
};

/** A reason in words. */
export const reasonWords = (reason) => REASONS[reason] ?? String(reason ?? '').replaceAll('_', ' ');
