// node run.mjs CHECK...: runs these checks one after the other. What it says is on standard error; standard output and
// input are the driver's (loadtest/tests/it/page).

import { hangUp, log, start, stop } from './browser.mjs';

const failed = [];
await start();
try {
  for (const name of process.argv.slice(2)) {
    const { default: check } = await import(`./checks/${name}.mjs`);
    const started = Date.now();
    try {
      await check();
      log(`page: ${name} holds (${Date.now() - started} ms)`);
    } catch (error) {
      failed.push(name);
      log(`page: ${name} FAILED: ${error.stack}`);
    }
  }
} finally {
  await stop();
  hangUp();
}
process.exitCode = failed.length ? 1 : 0;
