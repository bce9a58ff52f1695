// Small elements that several views share.

import { ApiError, download, hasToken } from './api.js';
import { h, setAttr, setText, show, uniqueId } from './dom.js';
import * as f from './format.js';

/** Creates a link that saves a table as CSV. The caller sets `href`. */
export function csvLink(file) {
  const link = h('a', { class: 'button', download: file, text: 'CSV' });
  link.addEventListener('click', async (event) => {
    if (!hasToken()) return;
    event.preventDefault();
    try {
      await download(link.getAttribute('href'), file);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      announce(`Not saved: ${error.message}`);
    }
  });
  return link;
}

/** Creates a relative time whose title is the exact time. */
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

/**
 * Creates a bar for a fraction. The bar is hidden from screen readers, because the caller also shows the fraction as
 * text.
 */
export function loadBar() {
  const fill = h('span', { class: 'fill' });
  const element = h('span', { class: 'bar', 'aria-hidden': 'true' }, fill);
  return {
    element,
    /** Sets the fraction, from 0 to 1; null means that there is no bound. */
    set(share, level = levelOf(share)) {
      setAttr(element, 'data-level', level);
      const width = `${Math.round(Math.min(1, share ?? 0) * 1000) / 10}%`;
      if (fill.style.width !== width) fill.style.width = width;
    },
  };
}

/** Returns the level of a fraction, which sets the colour of its bar. */
export function levelOf(share) {
  if (share === null || share === undefined) return 'unbounded';
  if (share >= 1) return 'full';
  return share >= 0.85 ? 'high' : 'ok';
}

/** Creates a word with a coloured mark. */
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

/** Creates a number with its label. */
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

/** Creates a section of a view, with a heading. Its `problem` shows a read error. */
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
    /** Shows an error. Without an error, hides the previous one. */
    fail(error) {
      show(problem, Boolean(error));
      element.classList.toggle('failed', Boolean(error));
      if (error) setText(problem, `Could not be read: ${error.message}`);
    },
  };
}

/** Creates the placeholder of an empty table, with a command to try. */
export function empty(text, command) {
  return h('div', { class: 'empty' }, h('p', { text }), command ? h('pre', { tabindex: '0' }, h('code', { text: command })) : null);
}

/** Creates the heading of a view, which takes the focus when the view opens. */
export const viewHeading = (text) => h('h1', { tabindex: '-1', text });

/**
 * Creates a choice whose options are links, so that each option has an address. `options`: `[{value, label, href}]`.
 */
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

/** Creates a search field. It calls `onChange` when the user pauses typing. */
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

/** Announces a text to screen readers. Do not call it at every update. */
export function announce(text) {
  const region = politely();
  if (region) setText(region, text);
}

/** The reasons for results of requests, in words. */
export const REASONS = {
  admitted: 'admitted', pool_full: 'pool full', no_endpoints: 'no endpoints', limit: 'limit', quota: 'quota',
  store_unavailable: 'store down', overloaded: 'overloaded', invalid: 'invalid',
};

/** Returns a reason in words. */
export const reasonWords = (reason) => REASONS[reason] ?? String(reason ?? '').replaceAll('_', ' ');
