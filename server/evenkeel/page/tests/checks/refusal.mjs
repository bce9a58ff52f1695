// Given the id of a request that a gateway refused, the page explains the refusal.

import assert from 'node:assert/strict';
import { api, driver, SIDECARS, until, visit } from '../browser.mjs';

export default async function check() {
  const { request_id: id, status } = await driver('refuse', { consumer: 'greedy' });
  assert.equal(status, 429);
  // A sidecar that did not refuse the request itself can explain the refusal too.
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

  // The list of refusals leads to the same explanation, and so does an address.
  await page.goto(`${SIDECARS[0]}#/`);
  await page.getByRole('table', { name: 'Refusals, newest first' }).getByText('limit once').first().waitFor();
  await page.goto(`${SIDECARS[0]}#/why?id=${encodeURIComponent(id)}`);
  await page.locator('.verdict').waitFor();

  // If a request has no recorded refusal, the page says so.
  tolerate(/refusals\/nobody/);
  await page.getByLabel('Request id').fill('nobody');
  await page.keyboard.press('Enter');
  await page.getByText('No refusal of nobody is on record').waitFor();
  // A sidecar may record the refusal later, so the page reads it again.
  await page.waitForResponse(/refusals\/nobody/);
  await leave();
}
