// The address contains the state of the view. Links can therefore be shared, and back and forward work. Tables can be
// downloaded as CSV.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, request as ask } from 'node:http';
import { api, driver, SIDECARS, visit } from '../browser.mjs';

async function addresses() {
  const { page, leave } = await visit('#/pool?cluster=llm&sort=address&span=1h&search=127');
  const sorted = page.locator('th[aria-sort="ascending"]', { hasText: 'Endpoint' });
  await sorted.waitFor();
  assert.equal(await page.getByLabel('Search addresses').inputValue(), '127');
  assert.equal(await page.getByRole('group', { name: 'Time span' }).locator('[aria-current]').innerText(), '1 h');
  await page.getByLabel('Search addresses').fill('nothing-like-it');
  await page.getByText('No endpoints to show').waitFor();
  await page.reload();
  await page.getByText('No endpoints to show').waitFor();
  assert.ok(page.url().includes('search=nothing-like-it'));
  await page.getByLabel('Search addresses').fill('');
  await sorted.waitFor();

  await page.getByRole('link', { name: 'Usage' }).first().click();
  await page.getByRole('link', { name: '7 days' }).click();
  await page.getByRole('link', { name: 'By model' }).click();
  await page.getByRole('table', { name: 'Usage by model' }).waitFor();
  assert.ok(page.url().endsWith('#/usage?days=7&by=model'), page.url());
  await page.goBack();
  await page.getByRole('table', { name: 'Usage by consumer' }).waitFor();
  await page.goBack();
  await page.goBack();
  await page.getByRole('table', { name: 'Endpoints of the pool' }).waitFor();
  await page.goForward();
  await page.getByRole('heading', { name: 'Usage', level: 1 }).waitFor();
  assert.equal(await page.title(), 'Usage · Evenkeel');
  await leave();
}

/** If a filter changes, every list starts at its first page, including the second list of a view. */
async function pages() {
  const { page, tolerate, leave } = await visit('#/quotas?rpage=of-another-filter&rn=2');
  tolerate(/status of 400/);
  await page.getByLabel('Search consumers').fill('car');
  await page.waitForFunction(() => location.hash === '#/quotas?search=car');
  await page.evaluate(() => { location.hash = '#/usage?spage=of-another-day&sn=2'; });
  await page.getByRole('link', { name: '7 days' }).click();
  await page.waitForFunction(() => location.hash === '#/usage?days=7');
  await leave();
}

/** At midnight (UTC), an open view moves on to the new day. */
async function midnight() {
  const { page, leave } = await visit('#/usage');
  await page.getByRole('table', { name: 'Usage by consumer' }).waitFor();
  const tomorrow = await page.evaluate(() => {
    const now = Date.now.bind(Date);
    Date.now = () => now() + 86_400_000;
    return new Date(Date.now()).toISOString().slice(0, 10);
  });
  await page.getByRole('heading', { name: `Sessions of ${tomorrow}` }).waitFor();
  assert.equal(await page.getByLabel('First day (UTC)').inputValue(), tomorrow);
  await leave();
}

async function csv() {
  const { page, leave } = await visit('#/usage');
  const link = page.getByRole('link', { name: 'CSV' }).first();
  await page.getByRole('table', { name: 'Usage by consumer' }).waitFor();
  const [download] = await Promise.all([page.waitForEvent('download'), link.click()]);
  const text = readFileSync(await download.path(), 'utf8');
  const { body } = await api('usage?by=consumer&page_size=10000');
  assert.equal(text.trim().split('\n').length, body.rows.length + 1, text);
  assert.match(text, /^consumer,/);
  assert.ok(text.includes('carol'));
  await leave();
}

/** The page works below a path prefix, such as that of an ingress or of kubectl's proxy. */
async function prefix() {
  const target = new URL(SIDECARS[0]);
  const proxy = createServer((from, to) => {
    if (!from.url.startsWith('/some/where/')) {
      to.writeHead(404).end();
      return;
    }
    const sent = ask({ host: target.hostname, port: target.port, path: from.url.slice('/some/where'.length), method: from.method, headers: from.headers }, (answer) => {
      to.writeHead(answer.statusCode, answer.headers);
      answer.pipe(to);
    });
    sent.on('error', () => to.destroy());
    to.on('close', () => sent.destroy());
    from.pipe(sent);
  });
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const { page, leave } = await visit('#/', { base: `http://127.0.0.1:${proxy.address().port}/some/where/` });
  await page.waitForFunction(() => document.body.dataset.live === 'live');
  await page.getByRole('link', { name: 'llm', exact: true }).click();
  await page.getByRole('table', { name: 'Endpoints of the pool' }).waitFor();
  await leave();
  proxy.closeAllConnections();
  await new Promise((resolve) => proxy.close(resolve));
}

export default async function check() {
  await driver('use', { consumer: 'carol', model: 'mock', session: 'carol-1', requests: 2 });
  await addresses();
  await pages();
  await midnight();
  await csv();
  await prefix();
}
