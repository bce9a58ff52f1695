// The page reports that its sidecar was killed, and later that the store hangs. It recovers from both automatically.

import assert from 'node:assert/strict';
import { driver, figure, log, number, until, visit } from '../browser.mjs';

/** If the sidecar rejects a pool's parameters, the page shows the error and does not report a lost sidecar. */
async function refused() {
  const { page, tolerate, leave } = await visit('#/pool?cluster=llm&sort=nothing-like-it');
  tolerate(/status of 400/);
  const live = () => page.evaluate(() => document.body.dataset.live);
  await page.getByText(/Could not be read: sort: must be/).waitFor();
  await until('it is live', live, (state) => state === 'live');
  await page.evaluate(() => { location.hash = '#/pool?cluster=llm'; });
  await page.getByRole('table', { name: 'Endpoints of the pool' }).waitFor();
  await until('it is live again', live, (state) => state === 'live');
  await leave();
}

export default async function check() {
  await refused();
  const { page, tolerate, leave } = await visit();
  // The browser reports connections that are refused or lost.
  tolerate(/net::ERR_(CONNECTION_|INCOMPLETE_CHUNKED|EMPTY_RESPONSE|ABORTED)/);
  const lost = page.locator('#lost-banner');
  const live = () => page.evaluate(() => document.body.dataset.live);
  await until('it is live', live, (state) => state === 'live');
  await page.evaluate(() => { window.sameDocument = true; });
  await driver('kill', { sidecar: 0 });
  await lost.waitFor({ state: 'visible' });
  assert.match(await lost.innerText(), /No answer from the sidecar; trying again/);
  assert.equal(await page.locator('main .stat-value').first().evaluate((element) => getComputedStyle(element).opacity), '0.5', 'old figures look old');
  await driver('start', { sidecar: 0 });
  const { ms } = await until('it is live again', live, (state) => state === 'live');
  log(`page: live ${ms} ms after the sidecar was`);
  await lost.waitFor({ state: 'hidden' });
  await driver('open', { count: 3 });
  await until('it shows the requests in flight again', async () => number(await figure(page, 'In flight')), (count) => count === 3);
  assert.ok(await page.evaluate(() => window.sameDocument), 'the page was loaded anew');
  await driver('close', { count: 3 });

  // Now the store hangs.
  const banner = page.locator('#store-banner');
  tolerate(/status of 503/);
  await driver('store', { up: false });
  await banner.waitFor({ state: 'visible' });
  await page.waitForFunction(() => /The store is down/.test(document.getElementById('store-banner').textContent));
  assert.equal(await live(), 'live', 'the sidecar itself answers');
  await driver('store', { up: true });
  await banner.waitFor({ state: 'hidden' });
  await leave();
}
