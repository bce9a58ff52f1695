// The capacity page: shows the current view, and passes the events of the watch to it.

import { attention } from './lib/attention.js';
import { setAttr, setText, show } from './lib/dom.js';
import { duration } from './lib/format.js';
import { live } from './lib/live.js';
import { follow } from './lib/router.js';
import { askForToken, check, onToken, setConfigured } from './lib/token.js';
import { announce } from './lib/ui.js';
import * as changes from './views/changes.js';
import * as cluster from './views/cluster.js';
import * as limits from './views/limits.js';
import * as overview from './views/overview.js';
import * as pool from './views/pool.js';
import * as quotas from './views/quotas.js';
import * as session from './views/session.js';
import * as usage from './views/usage.js';
import * as why from './views/why.js';

const VIEWS = {
  '/': overview, '/pool': pool, '/limits': limits, '/quotas': quotas, '/usage': usage, '/session': session, '/cluster': cluster, '/why': why, '/changes': changes,
};
/** Views without a menu entry, and the entry that is marked for each of them. */
const MENU = { '/pool': '/', '/session': '/usage' };

/** Age in ms after which the page marks figures as old. */
const OLD_MS = 10_000;

const by = (id) => document.getElementById(id);
const main = by('main');
let shown = null;
let last = null;

function showView({ path, params }) {
  const known = VIEWS[path] ? path : '/';
  if (shown?.path !== known) {
    shown?.view.destroy();
    const view = VIEWS[known].create({ rewatch: () => stream.watch(shown.view.watch()) });
    const first = shown === null;
    shown = { path: known, view };
    main.replaceChildren(view.element);
    view.update(params);
    for (const entry of document.querySelectorAll('#menu a')) {
      setAttr(entry, 'aria-current', entry.getAttribute('href') === `#${MENU[known] ?? known}` ? 'page' : null);
    }
    document.querySelector('#menu a[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    if (!first) {
      window.scrollTo(0, 0);
      view.element.querySelector('h1')?.focus({ preventScroll: true });
    }
  } else {
    shown.view.update(params);
  }
  document.title = `${shown.view.title} · Evenkeel`;
  stream.watch(shown.view.watch());
  if (last) shown.view.live?.('overview', last);
}

function takeEvent(name, data) {
  if (name === 'overview') {
    last = data;
    setConfigured(data.admin);
    storeBanner(data);
    lines.set(data);
  }
  shown?.view.live?.(name, data);
}

function storeBanner({ store, age_ms: age }) {
  const away = !store.up;
  const old = !away && age > OLD_MS;
  const banner = by('store-banner');
  show(banner, away || old);
  if (away) setText(banner, 'The store is down: figures are this sidecar\u2019s own, or the last ones read. Each pool\u2019s policy decides about requests.');
  else if (old) setText(banner, `The figures are ${duration(age)} old: the store answers slowly.`);
}

let before = '';

function takeState(state) {
  document.body.dataset.live = state;
  const words = { connecting: 'Connecting', live: 'Live', lost: 'No answer' };
  setText(by('live-word'), words[state]);
  show(by('lost-banner'), state === 'lost');
  if (state === 'lost' && before === 'live') announce('No answer from the sidecar; trying again');
  if (state === 'live' && before === 'lost') {
    announce('The sidecar answers again');
    shown?.view.refresh?.();
  }
  before = state === 'connecting' ? before : state;
}

const lines = attention(by('attention'));
const stream = live(takeEvent, takeState, () => shown?.view.refused?.());
by('admin').addEventListener('click', () => askForToken());
onToken(({ token, name }) => {
  setText(by('admin-word'), token ? name || 'Signed in' : 'Sign in to change');
  setAttr(by('admin'), 'data-held', token ? 'true' : null);
});
by('skip').addEventListener('click', (event) => {
  event.preventDefault();
  (main.querySelector('h1') ?? main).focus();
});
follow(showView);
check();
