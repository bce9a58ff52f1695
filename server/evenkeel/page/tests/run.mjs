// node run.mjs CHECK...: runs the checks one after another. Prints to standard error, because standard input and output
// are the pipe to the driver (loadtest/tests/it/page).

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
