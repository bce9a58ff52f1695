// Takes the pictures for the documentation; see loadtest/tests/it/page/pictures.rs.

import { join } from 'node:path';
import { api, SIDECARS, TOKEN, visit } from '../browser.mjs';

const WIDE = { viewport: { width: 1280, height: 900 } };
const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

const PICTURES = [
  ['page-light', '#/', { ...WIDE, colorScheme: 'light' }],
  ['page-dark', '#/', { ...WIDE, colorScheme: 'dark' }],
  ['page-phone', '#/', { ...PHONE, colorScheme: 'light' }],
  ['page-pool', '#/pool?cluster=llama-3.3-70b', { ...WIDE, colorScheme: 'light' }],
  ['page-usage', '#/usage', { ...WIDE, colorScheme: 'light' }],
  ['page-why', null, { viewport: { width: 1280, height: 560 }, colorScheme: 'light' }],
];

export default async function pictures() {
  await api('drains', {
    method: 'POST', headers: { Authorization: `Bearer ${TOKEN}`, 'Content-Type': 'application/json' },
    body: JSON.stringify({ endpoint: '10.20.0.15:8000', cluster: 'llama-3.3-70b', route: '', note: 'new driver' }),
  });
  const { body: { refusals } } = await api('refusals?page_size=50');
  const refused = refusals.find((one) => one.reason === 'limit') ?? refusals[0];
  for (const [name, hash, options] of PICTURES) {
    const { page, leave } = await visit(hash ?? `#/why?id=${encodeURIComponent(refused?.request_id ?? '')}`, { base: SIDECARS[0], ...options });
    await page.waitForFunction(() => document.body.dataset.live === 'live');
    // Wait until every section has loaded and the charts are drawn.
    await page.waitForLoadState('networkidle').catch(() => {});
    await page.waitForTimeout(1500);
    await page.screenshot({ path: join(process.env.EVENKEEL_PAGE_PICTURES, `${name}.png`) });
    await leave();
  }
}
