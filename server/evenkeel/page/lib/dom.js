// Creates and changes elements without parsing markup. Names of consumers are hostile input and must only become text.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * Creates an element. In `props`, `class`, `text`, `on: {event: handler}` and `dataset` have a meaning; every other
 * name is an attribute. The values false, null and undefined leave the attribute out; true sets it to an empty text.
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  set(element, props ?? {});
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Creates an SVG element with attributes. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function set(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === 'class') element.className = value;
    else if (name === 'text') element.textContent = value;
    else if (name === 'dataset') Object.assign(element.dataset, value);
    else if (name === 'on') {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else element.setAttribute(name, value === true ? '' : value);
  }
}

/** Sets a text if it differs, so that an update without changes does not touch the document. */
export function setText(node, text) {
  const value = String(text);
  if (node.textContent !== value) node.textContent = value;
}

/** Sets or removes an attribute if it differs. */
export function setAttr(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? '' : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/**
 * Returns a function that makes the children of `parent` match its items, with one child for each key. Children that
 * stay are changed in place. `make(item)` returns `{element, set(item)}`.
 */
export function keyed(parent, key, make) {
  let held = new Map();
  return (items) => {
    const next = new Map();
    const { activeElement: focused } = document;
    let at = parent.firstElementChild;
    for (const item of items) {
      const id = key(item);
      if (next.has(id)) continue;
      const child = held.get(id) ?? make(item);
      child.set(item);
      next.set(id, child);
      if (child.element === at) at = at.nextElementSibling;
      else parent.insertBefore(child.element, at);
    }
    for (const [id, child] of held) if (!next.has(id)) child.element.remove();
    held = next;
    // A moved element loses the focus inside it.
    if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
  };
}

let ids = 0;

export function uniqueId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}
