// Checks every view in the light and dark themes and on a phone: axe-core reports no serious violation, and no element
// is wider than the viewport.

import assert from 'node:assert/strict';
import { accessible, driver, visit } from '../browser.mjs';

const VIEWS = [
  ['#/', 'Refusals, newest first'], ['#/pool?cluster=llm', 'Endpoints of the pool'], ['#/limits', 'Limits as configured'], ['#/quotas', 'Quotas on record'],
  ['#/usage?days=7', 'Usage by consumer'], ['#/session?id=erin-1&consumer=erin', 'Turns of the session'], ['#/cluster', 'Sidecars'], ['#/changes', null],
];
const SCREENS = [
  ['light', { colorScheme: 'light' }],
  ['dark', { colorScheme: 'dark' }],
  ['phone', { colorScheme: 'light', viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }],
];

/** The page reports that a pool is unknown, and everything else stays live. */
async function unknown() {
  const { page, tolerate, leave } = await visit('#/pool?cluster=nobodys');
  tolerate(/nobodys/);
  await page.getByText('no sidecar knows this pool').waitFor();
  await page.waitForFunction(() => document.body.dataset.live === 'live');
  await accessible(page, 'a pool nobody knows');
  await leave();
}

export default async function check() {
  await unknown();
  await driver('use', { consumer: 'erin', model: 'mock', session: 'erin-1', requests: 2 });
  const { request_id: id } = await driver('refuse', { consumer: 'greedy' });
  const views = [...VIEWS, [`#/why?id=${encodeURIComponent(id)}`, 'Refusals, newest first']];
  for (const [screen, options] of SCREENS) {
    const { page, leave } = await visit('#/', { reducedMotion: 'reduce', ...options });
    await page.waitForFunction(() => document.body.dataset.live === 'live');
    for (const [hash, table] of views) {
      await page.goto(page.url().replace(/#.*/, hash));
      if (table) await page.getByRole('table', { name: table }).locator('tbody tr').first().waitFor();
      await page.waitForFunction(() => document.querySelectorAll('main h1').length === 1);
      await accessible(page, `${hash}, ${screen}`);
      const [content, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(content <= room, `${hash}, ${screen}: ${content} pixels wide on ${room}`);
    }
    await page.locator('#admin').click();
    await page.getByRole('dialog').waitFor();
    await accessible(page, `the dialog, ${screen}`);
    await leave();
  }
}
