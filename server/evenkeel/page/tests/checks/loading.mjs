// The page loads quickly, is small, and has a content security policy that allows only its own files.

import assert from 'node:assert/strict';
import { api, log, SIDECARS, visit } from '../browser.mjs';

const LOADED_WITHIN_MS = 1000;
const TRANSFER_MAX = 150_000;

/** Returns the time from the start of a visit to the first figures, and the number of bytes fetched. */
async function load() {
  const { page, leave } = await visit();
  await page.waitForFunction(() => document.querySelector('.stat-value')?.textContent !== '');
  const seen = await page.evaluate(() => ({
    ms: performance.now(),
    bytes: performance.getEntriesByType('resource').reduce((sum, one) => sum + (one.name.includes('/assets/') ? one.transferSize : 0), 0),
    elsewhere: performance.getEntriesByType('resource').map((one) => one.name).filter((name) => !name.startsWith(location.origin)),
  }));
  await leave();
  return seen;
}

export default async function check() {
  // On a busy machine, a visit may wait for the machine instead of the page, so only the fastest visit must be quick.
  const visits = [];
  for (let i = 0; i < 5; i += 1) visits.push(await load());
  const fastest = Math.min(...visits.map((one) => one.ms));
  log(`page: figures after ${visits.map((one) => Math.round(one.ms)).join(', ')} ms; ${visits[0].bytes} bytes of assets`);
  assert.ok(fastest < LOADED_WITHIN_MS, `the fastest of five visits took ${fastest} ms`);
  assert.ok(visits[0].bytes > 10_000 && visits[0].bytes < TRANSFER_MAX, `${visits[0].bytes} bytes`);
  assert.deepEqual(visits[0].elsewhere, [], 'something is fetched from elsewhere');

  const index = await fetch(SIDECARS[0]);
  const policy = index.headers.get('content-security-policy');
  assert.match(policy, /default-src 'self'/);
  assert.doesNotMatch(policy, /unsafe/);
  assert.equal(index.headers.get('x-content-type-options'), 'nosniff');
  assert.equal(index.headers.get('x-frame-options'), 'DENY');
  const again = await fetch(SIDECARS[0], { headers: { 'If-None-Match': index.headers.get('etag') } });
  assert.equal(again.status, 304);
  assert.equal((await fetch(`${SIDECARS[0]}assets/lib/none.js`)).status, 404);
  assert.equal((await api('overview')).status, 200);
}
