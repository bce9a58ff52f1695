// Runs a real Chromium against the page. Gives each check the errors that the browser reports, and a pipe to the driver
// (loadtest/tests/it/page), which runs the sidecars, gateways and model servers.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const need = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; see loadtest/tests/it/page`);
  return value;
};

const tools = createRequire(`${need('EVENKEEL_PAGE_TOOLS')}/`);
const { chromium } = tools('playwright-core');
const axe = readFileSync(tools.resolve('axe-core/axe.min.js'), 'utf8');

/** Base addresses of the sidecars' HTTP API, ending in a slash. */
export const SIDECARS = need('EVENKEEL_PAGE_URLS').split(',');
export const TOKEN = need('EVENKEEL_PAGE_TOKEN');

/** Timeout in ms that is long enough for a busy machine. Checks that must be faster set their own. */
export const PATIENCE = 20_000;

const lines = createInterface({ input: process.stdin });
const answers = lines[Symbol.asyncIterator]();
let turn = Promise.resolve();

/** Sends a command to the driver and returns its one-line answer. */
export function driver(what, args = {}) {
  const asked = turn.then(async () => {
    process.stdout.write(`${JSON.stringify({ do: what, ...args })}\n`);
    const { value, done } = await answers.next();
    if (done) throw new Error(`the driver went away at ${what}`);
    const answer = JSON.parse(value);
    if (answer.fault) throw new Error(`the driver at ${what}: ${answer.fault}`);
    return answer;
  });
  turn = asked.catch(() => {});
  return asked;
}

/** Releases the driver's pipe, so that this process can end. */
export const hangUp = () => lines.close();

export const log = (text) => process.stderr.write(`${text}\n`);

let browser = null;

export async function start() {
  browser = await chromium.launch({
    executablePath: process.env.EVENKEEL_BROWSER || '/usr/bin/chromium', headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

export const stop = () => browser?.close();

/**
 * Opens the page in a new browser context without stored data. Any error in the console, in a script or against the
 * content security policy fails the check, except those that match a pattern given to `tolerate(pattern)`.
 */
export async function visit(hash = '', { base = SIDECARS[0], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: 'en-US', acceptDownloads: true, ...options });
  const page = await context.newPage();
  const complaints = [];
  const tolerated = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(`${message.text()} (${message.location().url})`);
  });
  page.on('pageerror', (error) => complaints.push(`${error.message}\n${error.stack}`));
  page.on('dialog', (dialog) => {
    complaints.push(`a script opened: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.setDefaultTimeout(PATIENCE);
  await page.goto(base + hash, { waitUntil: 'load' });
  return {
    page, context,
    tolerate: (pattern) => tolerated.push(pattern),
    /** Ends the visit. Fails if the browser reported an error that the check does not tolerate. */
    async leave() {
      await context.close();
      const left = complaints.filter((text) => !tolerated.some((pattern) => pattern.test(text)));
      assert.deepEqual(left, [], 'the browser complained');
    },
  };
}

/** Reads JSON from a sidecar's API without the browser. */
export async function api(path, { base = SIDECARS[0], ...options } = {}) {
  const response = await fetch(`${base}api/v1/${path}`, options);
  return { status: response.status, body: response.status === 204 ? null : await response.json() };
}

/** Waits until `look()` returns a value for which `holds` is true. On failure, reports the last value. */
export async function until(what, look, holds, patienceMs = PATIENCE) {
  const started = Date.now();
  for (;;) {
    const seen = await look();
    if (holds(seen)) return { seen, ms: Date.now() - started };
    if (Date.now() - started > patienceMs) throw new Error(`not within ${patienceMs} ms: ${what}; last seen: ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Fails if axe-core finds a serious violation in the current view. */
export async function accessible(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  const told = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.slice(0, 3).map((node) => `${node.target.join(' ')} (${node.failureSummary})`).join('; ')}`);
  const serious = told.filter((_, at) => ['serious', 'critical'].includes(violations[at].impact));
  for (const line of told) log(`axe, ${what}: ${line}`);
  assert.deepEqual(serious, [], `axe-core about ${what}`);
}

/** Returns a figure from the header of a view, by its label. */
export const figure = (page, name) => page.locator('.stat', { has: page.locator('dt', { hasText: name }) }).locator('.stat-value').innerText();

/** Parses a formatted number: 1,234 → 1234 */
export const number = (text) => Number(text.replace(/[^\d.-]/g, ''));

/** Returns the texts of a column, by its title. */
export async function column(page, caption, title) {
  return page.getByRole('table', { name: caption }).evaluate((table, wanted) => {
    const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim().startsWith(wanted));
    return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent.trim());
  }, title);
}
