// Clients choose the names of consumers, models and sessions, so the page must show them as text and encode them in
// links.

import assert from 'node:assert/strict';
import { column, driver, until, visit } from '../browser.mjs';

const NAME = '<img src=x onerror="alert(1)">&amp;/?#"\'%2F';

// In keys of limits, some characters are percent-encoded.
const KEY = `consumer=${NAME}`;

export default async function check() {
  await driver('use', { consumer: NAME, model: NAME, session: NAME, requests: 3 });
  const { page, tolerate, leave } = await visit('#/usage');
  // No request has this name as its id, so the sidecar answers with an error.
  tolerate(/refusals/);
  const clean = async (where) => {
    assert.equal(await page.locator('main img, main script, main iframe').count(), 0, `markup was made of a name in ${where}`);
  };
  const link = page.getByRole('table', { name: 'Usage by consumer' }).getByRole('link', { name: NAME, exact: true });
  await link.click();
  await page.getByRole('table', { name: 'Usage by model' }).getByRole('link', { name: NAME, exact: true }).waitFor();
  assert.equal(await page.locator('.chip strong').innerText(), NAME);
  await clean('usage');
  await page.getByRole('table', { name: 'Sessions by tokens' }).getByRole('link', { name: NAME, exact: true }).first().click();
  await page.getByRole('heading', { name: NAME }).waitFor();
  await page.getByRole('table', { name: 'Turns of the session' }).locator('tbody tr').nth(2).waitFor();
  await clean('a session');
  for (const hash of ['#/limits', '#/', '#/quotas', `#/why?id=${encodeURIComponent(NAME)}`]) {
    await page.goto(page.url().replace(/#.*/, hash));
    if (hash === '#/limits') await until('the key is listed as text', () => column(page, 'Keys closest', 'Key'), (keys) => keys.map(decodeURIComponent).includes(KEY));
    await clean(hash);
  }
  await page.goto('about:blank');
  await leave();
}
