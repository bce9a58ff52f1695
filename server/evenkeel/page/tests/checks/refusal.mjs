// A request that a gateway really refused is explained from its id.

import assert from 'node:assert/strict';
import { api, driver, SIDECARS, until, visit } from '../browser.mjs';

export default async function check() {
  const { request_id: id, status } = await driver('refuse', { consumer: 'greedy' });
  assert.equal(status, 429);
  // Also the sidecar that did not refuse it knows.
  for (const base of SIDECARS) await until('the refusal is on record', () => api(`refusals/${encodeURIComponent(id)}`, { base }), (answer) => answer.status === 200);
  const { page, tolerate, leave } = await visit('#/why', { base: SIDECARS.at(-1) });
  await page.getByLabel('Request id').fill(id);
  await page.keyboard.press('Enter');
  const told = page.locator('.explained');
  await told.waitFor();
  const text = await told.innerText();
  assert.match(await told.locator('.verdict').innerText(), /once/, 'the limit is named');
  assert.match(text, /1 used \+ 1 for this request, of 1 request/);
  assert.match(text, /Consumer\s+greedy/);
  assert.match(text, /Answered with\s+429/);
  assert.ok(page.url().includes(`id=${encodeURIComponent(id)}`), 'it can be sent to somebody');

  // From the list of refusals too, and from an address alone.
  await page.goto(`${SIDECARS[0]}#/`);
  await page.getByRole('table', { name: 'Refusals, newest first' }).getByText('limit once').first().waitFor();
  await page.goto(`${SIDECARS[0]}#/why?id=${encodeURIComponent(id)}`);
  await page.locator('.verdict').waitFor();

  // What is not on record is said to be so.
  tolerate(/refusals\/nobody/);
  await page.getByLabel('Request id').fill('nobody');
  await page.keyboard.press('Enter');
  await page.getByText('No refusal of nobody is on record').waitFor();
  // It may be written only now: it is asked for again.
  await page.waitForResponse(/refusals\/nobody/);
  await leave();
}
