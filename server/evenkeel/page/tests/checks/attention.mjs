// The top of the page shows gateways whose requests pass without limits, as long as they do, and sidecars that stopped.
// Gateways choose their names, so these are hostile input too.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { accessible, column, driver, SIDECARS, until, visit } from '../browser.mjs';

const HOSTILE = '<img src=x onerror="alert(1)">&amp;';
const SCREENS = [
  ['light', { colorScheme: 'light' }],
  ['dark', { colorScheme: 'dark' }],
  ['phone', { colorScheme: 'light', viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }],
];

const lines = (page) => page.locator('#attention li').allInnerTexts();
const list = (page) => page.locator('#attention');

const HOUR = 3_600_000;

/** Shows every kind of line from an invented overview, in the page's own list. */
async function kinds(page) {
  const now = Date.now();
  const gap = { now: true, since_at_ms: now - HOUR / 60, last_at_ms: now, requests: 3, unreachable: 0, late: 0, failed: 3, without_store: 0 };
  const overview = {
    now_ms: now,
    gaps: [
      { gateway: '', sidecars: ['side-1'], unlimited: null, local: { ...gap, failed: 0, without_store: 3 } },
      { gateway: 'quiet', sidecars: ['side-1'], unlimited: { ...gap, now: false }, local: null },
      { gateway: 'failing', sidecars: ['side-1'], unlimited: gap, local: null },
    ],
    lost_sidecars: [{ id: '2', name: 'side-2', seen_at_ms: now }],
    expiring: [{ id: '3', name: 'side-3', certificate_expires_at_ms: now - 2 * HOUR }, { id: '4', name: 'side-4', certificate_expires_at_ms: now + 70 * HOUR }],
  };
  const shown = (data) => page.evaluate(async (one) => {
    const { attention } = await import(new URL('assets/lib/attention.js', location.href).href);
    const element = document.createElement('ul');
    attention(element).set(one);
    return [...element.children].map((line) => `${line.dataset.tone} ${line.textContent}`);
  }, data);
  const all = await shown(overview);
  const wanted = [
    /^bad failing: not limited since \d\d:\d\d: its sidecar answered with errors; 3 requests passed$/,
    /^bad Sidecar side-2 stopped at \d\d:\d\d: /,
    /^bad Certificate of sidecar side-3 expired 2 h ago: clients refuse it$/,
    /^warn The gateway of side-1: limited only by its own sidecar since \d\d:\d\d: the store did not answer; 3 requests admitted$/,
    /^warn Certificate of sidecar side-4 expires in 2 d 22 h$/,
  ];
  assert.equal(all.length, wanted.length, all.join('\n'));
  wanted.forEach((pattern, at) => assert.match(all[at], pattern));
  const many = await shown({ ...overview, gaps: Array.from({ length: 9 }, (_, i) => ({ ...overview.gaps[2], gateway: `g${i}` })) });
  assert.deepEqual([many.length, many[5]], [6, 'warn and 7 more']);
}

export default async function check() {
  const { page, leave } = await visit('#/', { base: SIDECARS[1] });
  await page.waitForFunction(() => document.body.dataset.live === 'live');
  await until('nothing needs attention', () => lines(page), (all) => all.length === 0);
  assert.ok(await list(page).isHidden());
  await kinds(page);

  // A worker at the other sidecar reports requests that passed.
  await driver('pass', { gateway: 'gateway-3', since_ms: 120_000, last_ms: 0, late: 312, unreachable: 1 });
  const told = await until('the gateway is named', () => lines(page), (all) => all.length === 1);
  assert.match(told.seen[0], /^gateway-3: not limited since \d\d:\d\d: its sidecar answered late \(312\), it reached no sidecar \(1\); 313 requests passed$/);
  assert.match(await page.locator('#announcer').innerText(), /^gateway-3: not limited since/);
  await driver('pass', { gateway: HOSTILE, since_ms: 1000, last_ms: 0, late: 1 });
  const both = await until('both gateways are named', () => lines(page), (all) => all.length === 2);
  assert.ok(both.seen.some((line) => line.startsWith(`${HOSTILE}: not limited since`)), both.seen.join('\n'));
  assert.equal(await page.locator('#attention img').count(), 0, 'markup was made of a name');

  // The line leads to the list of gateways.
  await page.locator('#attention a').first().click();
  await until('the gateways are listed', () => column(page, 'Gateways', 'State'), (states) => states.filter((state) => state === 'not limited').length === 2);
  const names = await column(page, 'Gateways', 'Gateway');
  assert.ok(names.includes('gateway-3') && names.includes(HOSTILE) && names.some((name) => name.startsWith('envoy-')), names.join('\n'));
  for (const [screen, options] of SCREENS) {
    for (const hash of ['#/', '#/cluster']) {
      const other = await visit(hash, options);
      await until('the lines are shown', () => lines(other.page), (all) => all.length === 2);
      if (hash === '#/cluster') await other.page.getByRole('table', { name: 'Gateways' }).locator('tbody tr').first().waitFor();
      await accessible(other.page, `attention, ${hash}, ${screen}`);
      const [content, room] = await other.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(content <= room, `${hash}, ${screen}: ${content} pixels wide on ${room}`);
      const { EVENKEEL_PAGE_SHOTS: shots } = process.env;
      if (shots) await other.page.screenshot({ path: join(shots, `attention-${screen}${hash === '#/' ? '' : '-cluster'}.png`) });
      await other.leave();
    }
  }

  // All is well again: both report requests that are long past.
  await driver('pass', { gateway: 'gateway-3', since_ms: 200_000, last_ms: 60_000, late: 312, unreachable: 1 });
  await driver('pass', { gateway: HOSTILE, since_ms: 100_000, last_ms: 60_000, late: 1 });
  await until('nothing needs attention any more', () => lines(page), (all) => all.length === 0);
  assert.ok(await list(page).isHidden());
  // The page reads the list and the strip in turn.
  await until('the list shows that the periods have ended', () => column(page, 'Gateways', 'Last not limited'), (periods) =>
    !periods.some((text) => text.includes('now')) && periods.some((text) => /^\d\d:\d\d–\d\d:\d\d: its sidecar answered late \(312\).*; 313 requests$/.test(text)));

  // A sidecar that was killed needs attention until it is back.
  await driver('kill', { sidecar: 0 });
  const stopped = await until('the sidecar is named', () => lines(page), (all) => all.length === 1);
  assert.match(stopped.seen[0], /^Sidecar .+ stopped at \d\d:\d\d: gateways that reach no other sidecar are not limited$/);
  await driver('start', { sidecar: 0 });
  await until('the sidecar is back', () => lines(page), (all) => all.length === 0);
  await leave();
}
