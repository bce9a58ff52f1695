// Tables whose rows have keys. The server sorts, searches and pages the rows. An update changes the rows in place.

import { announce } from './ui.js';
import { h, keyed, setAttr, setText, show, uniqueId } from './dom.js';
import * as f from './format.js';
import { current, link, patch, unpaged } from './router.js';

/**
 * Tokens of the visited pages, by view and filter and then by page number. The server returns only the token of the
 * next page.
 */
const seen = new Map();

/** Creates a text cell, with an optional title. */
export const text = (of, title) => (td) => (row) => {
  setText(td, of(row));
  if (title) setAttr(td, 'title', title(row));
};

/** Creates a cell that contains a link. */
export const linked = (of, href) => (td) => {
  const a = h('a');
  td.append(a);
  return (row) => {
    setText(a, of(row));
    setAttr(a, 'href', href(row));
  };
};

/**
 * Creates a table. `columns` is a list of `{title, make(td) → set(row), num, sort, order, wide, head}`. `sort` is the
 * server's name for the column's sort order, and `order` is its direction ("descending", "ascending"). `head` marks the
 * cell that names the row. `key(row)` identifies a row. `sortParam` is the parameter of the address that contains the
 * sort order. Without it, `defaultSort` applies.
 */
export function dataTable({ caption, columns, key, emptyState, defaultSort = '', sortParam = 'sort', cards = true }) {
  const headers = columns.map((column) => header(column, sortParam));
  const body = h('tbody', { role: 'rowgroup' });
  const captionId = uniqueId('caption');
  const table = h('table', { class: cards ? 'cards' : '', role: 'table' },
    h('caption', { id: captionId, class: 'hidden-label', text: caption }),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, headers.map((head) => head.element))), body);
  const scroller = h('div', { class: 'scroller', role: 'group', 'aria-labelledby': captionId, tabindex: '0', hidden: true }, table);
  const nothing = h('div', { hidden: true }, emptyState ?? h('p', { class: 'empty', text: 'Nothing to show.' }));
  const fill = keyed(body, key, () => newRow(columns));
  const wanted = columns.some((column) => column.sort);
  return {
    element: h('div', { class: 'table' }, scroller, nothing),
    table,
    set(rows, sort = defaultSort) {
      fill(rows);
      show(scroller, rows.length > 0);
      show(nothing, rows.length === 0);
      if (wanted) headers.forEach((head) => head.set(sort || defaultSort));
    },
  };
}

function header(column, sortParam) {
  const props = { scope: 'col', role: 'columnheader', class: column.num ? 'num' : '' };
  if (!column.sort) {
    const title = column.title || h('span', { class: 'hidden-label', text: column.label ?? 'Actions' });
    return { element: h('th', props, title), set() {} };
  }
  const button = h('button', { type: 'button', class: 'sort' }, column.title, h('span', { class: 'arrow', 'aria-hidden': 'true' }));
  button.addEventListener('click', () => {
    patch({ [sortParam]: column.sort });
    announce(`Sorted by ${column.title}, ${column.order}`);
  });
  const element = h('th', props, button);
  return { element, set: (sort) => setAttr(element, 'aria-sort', sort === column.sort ? column.order : null) };
}

function newRow(columns) {
  const setters = [];
  const cells = columns.map((column) => {
    const props = { class: [column.num ? 'num' : '', column.wide ? 'grow' : '', column.title ? '' : 'bare'].filter(Boolean).join(' ') };
    const cell = column.head
      ? h('th', { ...props, scope: 'row', role: 'rowheader' })
      : h('td', { ...props, role: 'cell', 'data-label': column.title });
    setters.push(column.make(cell));
    return cell;
  });
  const element = h('tr', { role: 'row' }, cells);
  return { element, set: (row) => setters.forEach((set) => set(row)) };
}

/** Number of rows on a page. */
export const PAGE_SIZE = 50;

/**
 * Creates the buttons that turn pages. `what` names the rows, such as "endpoints". `prefix` distinguishes two pagers of
 * one view.
 */
export function pager(what, { size = PAGE_SIZE, prefix = '' } = {}) {
  const [pageParam, numberParam] = [`${prefix}page`, `${prefix}n`];
  const count = h('p', { class: 'pager-count' });
  const first = h('button', { type: 'button', text: 'First' });
  const previous = h('button', { type: 'button', text: 'Previous' });
  const next = h('button', { type: 'button', text: 'Next' });
  const buttons = h('div', { class: 'pager-buttons' }, first, previous, next);
  const element = h('nav', { class: 'pager', 'aria-label': `Pages of ${what}`, hidden: true }, count, buttons);
  let state = { number: 1, next: '' };
  const filter = () => {
    const { path, params } = current();
    return `${prefix}${link(path, unpaged(params))}`;
  };
  const turn = (number) => {
    const token = number <= 1 ? '' : seen.get(filter())?.get(number) ?? '';
    patch({ [pageParam]: token, [numberParam]: token ? number : '' });
    announce(`Page ${token ? number : 1} of ${what}`);
  };
  first.addEventListener('click', () => turn(1));
  previous.addEventListener('click', () => turn(state.number - 1));
  next.addEventListener('click', () => turn(state.number + 1));
  return {
    element, size,
    /** Shows the number of rows on this page, `shown`, and of all rows, `total` (undefined if unknown). */
    set(shown, total, nextToken) {
      const number = Number(current().params[numberParam] || 1);
      state = { number, next: nextToken };
      if (nextToken) {
        if (seen.size > 200) seen.clear();
        const pages = seen.get(filter()) ?? new Map();
        seen.set(filter(), pages.set(number + 1, nextToken));
      }
      const from = (number - 1) * size + 1;
      const of = total === undefined ? '' : ` of ${f.int(total)}`;
      setText(count, shown ? `${f.int(from)}–${f.int(from + shown - 1)}${of} ${what}` : `No ${what}`);
      first.disabled = previous.disabled = number <= 1;
      next.disabled = !nextToken;
      show(element, shown > 0 || number > 1);
      show(buttons, number > 1 || Boolean(nextToken));
    },
  };
}
