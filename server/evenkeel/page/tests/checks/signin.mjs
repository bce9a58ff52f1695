// Where reading needs a role, the page loads without data and asks for a token. A reader's token shows the figures, also
// those of the stream, and saves tables, but changes nothing.

import assert from 'node:assert/strict';
import { api, figure, log, until, visit } from '../browser.mjs';

const READER = process.env.EVENKEEL_PAGE_READER;

export default async function check() {
  assert.equal((await api('overview')).status, 401);
  assert.equal((await api('overview', { headers: { 'x-evenkeel-token': READER } })).status, 200);
  const { page, tolerate, leave } = await visit();
  tolerate(/401|403/);

  const dialog = page.getByRole('dialog', { name: 'A token is needed' });
  await dialog.getByLabel('Token').fill('nobodys-token-at-all');
  await page.keyboard.press('Enter');
  await dialog.getByRole('alert').getByText('belongs to nobody').waitFor();
  assert.equal(await page.locator('body').getAttribute('data-live'), 'lost', 'without a token, there is no stream');
  await dialog.getByLabel('Token').fill(READER);
  await page.keyboard.press('Enter');
  await dialog.waitFor({ state: 'detached' });
  const { ms } = await until('the stream runs', () => page.locator('body').getAttribute('data-live'), (state) => state === 'live');
  log(`page: live ${ms} ms after the token`);
  await until('the figures', () => figure(page, 'Sidecars'), (text) => text !== '');

  // The token stays in the tab, and goes with downloads too.
  await page.goto(`${page.url().split('#')[0]}#/usage`);
  await page.reload();
  const downloading = page.waitForEvent('download');
  await page.getByRole('link', { name: 'CSV' }).first().click();
  assert.equal((await downloading).suggestedFilename(), 'usage.csv');

  // A reader changes nothing: the page asks for an administrator's token.
  await page.getByRole('link', { name: 'Limits' }).first().click();
  await page.getByRole('button', { name: 'Override … consumer-rpm for a key' }).click();
  const asked = page.getByRole('dialog', { name: 'Administrator’s token' });
  await asked.getByLabel('Token').fill(READER);
  await page.keyboard.press('Enter');
  await asked.getByRole('alert').getByText('may look, and change nothing').waitFor();
  await page.keyboard.press('Escape');
  await leave();
}
