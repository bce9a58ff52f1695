// Changes need a valid token. Without one, the sidecar rejects them. With one, the page asks for confirmation, sends
// the change and shows its line of the change log.

import assert from 'node:assert/strict';
import { api, driver, SIDECARS, TOKEN, until, visit } from '../browser.mjs';

const json = { 'Content-Type': 'application/json' };

async function refusedWithout() {
  const body = JSON.stringify({ amount: 1, note: '' });
  for (const [method, path, sent] of [['PUT', 'quotas/credit/alice', body], ['PUT', 'overrides/consumer-rpm/consumer=alice', '{"amount":1}'], ['POST', 'drains', '{"endpoint":"127.0.0.1:1"}']]) {
    for (const headers of [json, { ...json, Authorization: 'Bearer nobodys-token-at-all' }]) {
      const { status, body: answer } = await api(path, { method, headers, body: sent });
      assert.equal(status, 401, `${method} ${path}: ${JSON.stringify(answer)}`);
    }
  }
  const { status } = await api('whoami', { headers: { Authorization: 'Bearer nobodys-token-at-all' } });
  assert.equal(status, 401);
}

const dialog = (page) => page.getByRole('dialog');

/** Returns the line of the change log that the dialog shows after the change. */
async function done(page) {
  const result = dialog(page).getByRole('status');
  await result.getByText('Done.').waitFor();
  const text = await result.locator('pre').innerText();
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Close', 'the focus is on what comes next');
  await page.keyboard.press('Enter');
  await dialog(page).waitFor({ state: 'detached' });
  return text;
}

export default async function check() {
  await refusedWithout();
  const { page, tolerate, leave } = await visit('#/limits');
  tolerate(/whoami/);

  // Without a token, the button asks for one. For a wrong token, the page shows the server's message.
  const override = page.getByRole('button', { name: 'Override … consumer-rpm for a key' });
  await override.click();
  await dialog(page).getByRole('heading', { name: 'Administrator’s token' }).waitFor();
  const field = dialog(page).getByLabel('Token');
  assert.equal(await field.getAttribute('type'), 'password');
  await field.fill('nobodys-token-at-all');
  await page.keyboard.press('Enter');
  await dialog(page).getByRole('alert').getByText('belongs to nobody').waitFor();
  await field.fill(TOKEN);
  await page.keyboard.press('Enter');
  await dialog(page).getByLabel('Key').fill('consumer=alice');
  await page.keyboard.press('Enter');

  // Override a limit for one key.
  await dialog(page).getByRole('heading', { name: 'Limit consumer-rpm of consumer=alice' }).waitFor();
  await dialog(page).getByRole('button', { name: 'Enter an amount' }).click();
  await dialog(page).getByRole('alert').getByText('must be a number').waitFor();
  await dialog(page).getByLabel('How much').fill('77');
  await dialog(page).getByLabel('How long').selectOption({ label: 'for 1 hour' });
  assert.match(await dialog(page).locator('.before-after').innerText(), /as configured[\s\S]*77 requests per 1h/);
  await dialog(page).getByRole('button', { name: 'Override: 77 requests per 1h' }).click();
  assert.match(await done(page), /tests\s+override\.set\s+consumer-rpm\/consumer=alice/);
  const { body: { overrides } } = await api('overrides');
  assert.deepEqual(overrides.map(({ limit, key, amount, who }) => ({ limit, key, amount, who })), [{ limit: 'consumer-rpm', key: 'consumer=alice', amount: 77, who: 'tests' }]);
  await page.getByRole('table', { name: 'Overrides' }).getByText('77 requests').waitFor();
  await page.getByRole('button', { name: 'Remove … the override of consumer-rpm for consumer=alice' }).click();
  await dialog(page).getByRole('button', { name: 'Remove it' }).click();
  await done(page);
  assert.deepEqual((await api('overrides')).body.overrides, []);

  // Set a balance, typed in the currency.
  await page.getByRole('link', { name: 'Quotas' }).first().click();
  await page.getByRole('button', { name: 'Set a quota …' }).click();
  await dialog(page).getByLabel('Quota').fill('credit');
  await dialog(page).getByLabel('Consumer').fill('alice');
  await page.keyboard.press('Enter');
  await dialog(page).getByLabel('How much').fill('12.5');
  await dialog(page).getByLabel('Why (optional)').fill('a trial');
  assert.match(await dialog(page).locator('.before-after').innerText(), /5\.00[\s\S]*12\.50/);
  await dialog(page).getByRole('button', { name: /Set to 12\.50/ }).click();
  assert.match(await done(page), /tests\s+quota\.set\s+credit\/alice[\s\S]*a trial/);
  assert.equal((await api('quotas/credit/alice')).body.balance, 12_500_000);
  const { body: { changes } } = await api('quotas/credit/alice/changes');
  assert.deepEqual([changes[0].who, changes[0].note, changes[0].after], ['tests', 'a trial', 12_500_000]);
  await page.getByRole('table', { name: 'Quotas on record' }).getByText('12.50').waitFor();

  await drain(page);

  // The change log lists all changes.
  await page.getByRole('link', { name: 'Changes' }).click();
  const table = page.getByRole('table', { name: 'Changes' });
  for (const what of ['drained an endpoint', 'undrained an endpoint', 'set a quota', 'set an override', 'removed an override']) await table.getByText(what, { exact: true }).first().waitFor();

  // The page stores the token only in this tab, and forgets it on request.
  assert.ok(!page.url().includes(TOKEN) && !(await page.evaluate(() => JSON.stringify(localStorage))).includes(TOKEN));
  await page.reload();
  const who = page.locator('#admin');
  await who.getByText('tests').waitFor();
  await who.click();
  await dialog(page).getByRole('button', { name: 'Forget the token' }).click();
  await who.getByText('Sign in to change').waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await page.getByRole('link', { name: 'Quotas' }).first().click();
  await page.getByRole('button', { name: 'Set a quota …' }).click();
  await dialog(page).getByText('needs an administrator’s token').waitFor();
  await leave();
}

/** A drained endpoint gets no new requests. After the drain ends, it gets requests again. */
async function drain(page) {
  const { hosts } = await driver('hosts');
  const address = Object.keys(hosts)[0];
  await page.goto(page.url().replace(/#.*/, '#/pool?cluster=llm'));
  await page.getByRole('button', { name: `Drain … ${address}` }).click();
  await dialog(page).getByLabel('Why (optional)').fill('new driver');
  await dialog(page).getByRole('button', { name: 'Drain the endpoint' }).click();
  assert.match(await done(page), new RegExp(`tests\\s+endpoint\\.drain\\s+.*${address}`));
  const row = page.getByRole('row', { name: address });
  await row.getByText('drained', { exact: true }).waitFor();
  // The change takes effect on every sidecar within one KeepAlive interval.
  for (const base of SIDECARS) {
    const drained = async () => (await api('endpoints?cluster=llm', { base })).body.endpoints.find((one) => one.address === address).drained;
    await until('every sidecar knows', drained, (is) => is);
  }
  await driver('open', { count: 6 });
  const counts = (await driver('hosts')).hosts;
  assert.equal(counts[address], 0, `new requests went to the drained endpoint: ${JSON.stringify(counts)}`);
  await driver('close', { count: 6 });
  await page.getByRole('button', { name: `Undrain … ${address}` }).click();
  await dialog(page).getByText('new driver').waitFor();
  await dialog(page).getByRole('button', { name: 'Give it requests again' }).click();
  await done(page);
  await row.getByText('has room').waitFor();
  await until('nothing is drained', async () => (await api('drains')).body.drains.length, (count) => count === 0);
}
