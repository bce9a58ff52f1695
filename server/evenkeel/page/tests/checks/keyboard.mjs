// The whole page works by keyboard: each focused element is visible, the focus follows navigation, and a closed dialog
// returns the focus.

import assert from 'node:assert/strict';
import { visit } from '../browser.mjs';

const focused = (page) => page.evaluate(() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  return {
    tag: element.tagName, text: element.textContent.trim().slice(0, 60), label: element.getAttribute('aria-label') ?? '', href: element.getAttribute('href'),
    seen: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && box.width > 1 && box.height > 1 && style.visibility === 'visible',
  };
});

/** Presses Tab until the focused element matches. */
async function tabTo(page, fits, most = 80) {
  for (let i = 0; i < most; i += 1) {
    await page.keyboard.press('Tab');
    const at = await focused(page);
    if (at.tag === 'BODY') continue;
    assert.ok(at.seen, `the focus cannot be seen on ${JSON.stringify(at)}`);
    if (fits(at)) return at;
  }
  throw new Error('not reached by Tab');
}

/** When the rows of a list change their order, the focused row keeps the focus. */
async function moved() {
  const { page, leave } = await visit('#/');
  const seen = await page.evaluate(async () => {
    const { h, keyed } = await import('./assets/lib/dom.js');
    const list = h('ul');
    document.body.append(list);
    const fill = keyed(list, (name) => name, (name) => ({ element: h('li', {}, h('button', { text: name })), set() {} }));
    fill(['a', 'b', 'c']);
    list.lastElementChild.firstElementChild.focus();
    return [['c', 'a', 'b'], ['a', 'b', 'c'], ['c', 'b'], ['d', 'c']].map((names) => {
      fill(names);
      return [list.textContent, document.activeElement.textContent];
    });
  });
  assert.deepEqual(seen, [['cab', 'c'], ['abc', 'c'], ['cb', 'c'], ['dc', 'c']]);
  await leave();
}

export default async function check() {
  await moved();
  const { page, leave } = await visit('#/');
  await page.waitForFunction(() => document.body.dataset.live === 'live');
  await page.keyboard.press('Tab');
  assert.match((await focused(page)).text, /Skip to the figures/);
  await page.keyboard.press('Enter');
  assert.equal((await focused(page)).tag, 'H1');

  // Open a pool: its heading gets the focus. Sort it: the page announces the sort order.
  await tabTo(page, (at) => at.tag === 'A' && at.text === 'llm');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'llm', level: 1 }).waitFor();
  await page.waitForFunction(() => document.activeElement.tagName === 'H1');
  const table = page.getByRole('table', { name: 'Endpoints of the pool' });
  await table.waitFor();
  await tabTo(page, (at) => at.tag === 'BUTTON' && at.text.startsWith('Endpoint'));
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => [...document.querySelectorAll('th[aria-sort]')].some((th) => th.textContent.startsWith('Endpoint') && th.getAttribute('aria-sort') === 'ascending'));
  const rows = await table.evaluate((element) => [...element.tBodies[0].rows].map((row) => row.cells[0].textContent));
  assert.deepEqual(rows, [...rows].sort(), 'sorted by address');
  assert.match((await focused(page)).text, /^Endpoint/, 'the focus stays where it was');
  assert.match(await page.locator('#announcer').textContent(), /Sorted by Endpoint/);

  // A dialog takes the focus, keeps it while it is open, and returns it when it closes.
  const { text } = await tabTo(page, (at) => at.tag === 'BUTTON' && at.text.startsWith('Drain …'));
  await page.keyboard.press('Space');
  const dialog = page.getByRole('dialog', { name: 'Administrator’s token' });
  await dialog.waitFor();
  assert.equal((await focused(page)).tag, 'INPUT');
  for (let i = 0; i < 8; i += 1) {
    await page.keyboard.press('Tab');
    assert.ok(await page.evaluate(() => document.activeElement === document.body || document.querySelector('dialog').contains(document.activeElement)), 'the focus left the dialog');
  }
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  assert.equal((await focused(page)).text, text);

  // The browser's back button works.
  await page.goBack();
  await page.goBack();
  await page.getByRole('heading', { name: /Room for/ }).waitFor();
  await leave();
}
