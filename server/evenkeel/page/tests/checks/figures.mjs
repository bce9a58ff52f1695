// On every sidecar, the page shows the same figures as the API and the model servers, and shows a change within two
// seconds.

import assert from 'node:assert/strict';
import { api, column, driver, figure, log, number, SIDECARS, until, visit } from '../browser.mjs';

const FOLLOWS_WITHIN_MS = 2000;

/** Returns the requests in flight by endpoint that a page shows. */
async function shown(page) {
  const [addresses, counts] = [await column(page, 'Endpoints of the pool', 'Endpoint'), await column(page, 'Endpoints of the pool', 'In flight')];
  return Object.fromEntries(addresses.map((address, at) => [address, number(counts[at])]));
}

const same = (a, b) => JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());
const sum = (counts) => Object.values(counts).reduce((all, n) => all + n, 0);

export default async function check() {
  await driver('open', { count: 7 });
  const { hosts } = await driver('hosts');
  assert.equal(sum(hosts), 7);
  const visits = await Promise.all(SIDECARS.map((base) => visit('#/pool?cluster=llm', { base })));
  for (const [at, { page }] of visits.entries()) {
    await until(`sidecar ${at} shows the hosts' own counts`, () => shown(page), (counts) => same(counts, hosts));
    const { body } = await api('endpoints?cluster=llm', { base: SIDECARS[at] });
    assert.ok(same(hosts, Object.fromEntries(body.endpoints.map((one) => [one.address, one.in_flight]))), JSON.stringify(body));
    assert.equal(number(await figure(page, 'In flight')), 7);
    assert.equal(number(await figure(page, 'Room left')), body.pool.capacity - 7);
  }

  // The overviews of both sidecars show the same figures, and a change through either gateway.
  for (const { page } of visits) await page.evaluate(() => { location.hash = '#/'; });
  const follow = async (change, args, wanted) => {
    await driver(change, args);
    const started = Date.now();
    const seen = visits.map(({ page }) => page.waitForFunction((count) => document.querySelector('.stat-value')?.textContent === String(count), wanted, { polling: 20 }).then(() => Date.now() - started));
    const took = await Promise.all(seen);
    log(`page: ${change} seen after ${took.join(' and ')} ms`);
    assert.ok(took.every((ms) => ms < FOLLOWS_WITHIN_MS), `${change} was shown after ${took.join(' and ')} ms`);
  };
  await follow('open', { count: 4 }, 11);
  await follow('close', { count: 6 }, 5);
  const { body } = await api('overview');
  assert.equal(body.totals.in_flight, 5);
  for (const { page } of visits) {
    assert.equal(number(await figure(page, 'Sidecars')), SIDECARS.length);
    // The previous round has just closed a request, so wait until this page shows that.
    await page.getByRole('heading', { name: `Room for ${body.totals.capacity - 5} more` }).waitFor();
    // The page changes the row in place and does not rebuild the table.
    const row = await page.locator('table tbody tr').first().elementHandle();
    await driver('open', { count: 1 });
    await page.waitForFunction(() => document.querySelector('.stat-value')?.textContent === '6');
    assert.ok(await row.evaluate((element) => element.isConnected), 'the row was made anew');
    await driver('close', { count: 1 });
    await page.waitForFunction(() => document.querySelector('.stat-value')?.textContent === '5');
  }
  await driver('close', { count: 5 });

  // The label and the table of the chart contain the admitted requests.
  const { page } = visits[0];
  await page.reload();
  const told = page.getByRole('img', { name: /^Admitted in the last 15 min/ });
  await told.waitFor();
  await page.getByText('As a table').click();
  const steps = page.getByRole('table', { name: 'Requests by outcome' });
  const admitted = () => steps.evaluate((table) => [...table.tBodies[0].rows].reduce((all, row) => all + Number(row.cells[1].textContent.replace(/\D/g, '')), 0));
  await until('all that was opened is in the table of activity', admitted, (count) => count === 13);
  const { body: activity } = await api('activity', { base: SIDECARS[1] });
  assert.equal(activity.steps.reduce((sum, step) => sum + step.shared, 0), 13, 'the other sidecar tells the same');
  for (const one of visits) await one.leave();
}
