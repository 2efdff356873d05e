#!/usr/bin/env node
// CommonJS on purpose: Node reads ES modules through libuv's thread pool, whose size is fixed at its first use.
// Cloning a branch keeps many file operations in flight, so 4 threads (the default) are too few.
process.env.UV_THREADPOOL_SIZE ||= '16';

import('../dist/cli/main.js').catch((error) => {
  if (error.code !== 'ERR_MODULE_NOT_FOUND' || require('node:fs').existsSync(`${__dirname}/../dist/cli/main.js`))
    throw error;
  console.error('ballast: not built yet; run `npm start` or `npm run build` in the clone first');
  process.exitCode = 1;
});
