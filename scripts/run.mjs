/**
 * What `npm start`, `npm test`, `npm run bench` and `npm run ballast` call: sees to packages and build, then runs.
 * Works on a fresh clone with nothing but Node and npm; asks nothing.
 */
import { rmSync } from 'node:fs';
import path from 'node:path';
import { ROOT, SUMMARY_FILE, SetupError, checkNode, ensureBuilt, ensureInstalled, readJson, run } from './setup.mjs';

const commands = { start, test, bench, ballast };

async function main() {
  const [name, ...args] = process.argv.slice(2);
  const command = commands[name];
  if (command === undefined)
    throw new SetupError(`usage: node scripts/run.mjs ${Object.keys(commands).join('|')} [arguments]`);
  checkNode();
  await ensureInstalled();
  return command(args);
}

function start(args) {
  return ballast(['start', ...args]);
}

async function ballast(args) {
  await ensureBuilt();
  // The working directory stays the user's: relative paths in arguments are meant from there.
  return run(process.execPath, [path.join(ROOT, 'bin/ballast.cjs'), ...args], {
    cwd: process.env.INIT_CWD ?? process.cwd(),
    // What its texts should tell people to type.
    env: { ...process.env, BALLAST_COMMAND: 'npm run ballast --' },
  });
}

async function bench(args) {
  await ensureBuilt();
  return run(process.execPath, [path.join(ROOT, 'bench/run.mjs'), ...args]);
}

/** Static checks first, all of them, then the tests, whose summary ends the output. */
async function test(args) {
  const checks = [
    ['typecheck', 'tsc', ['--noEmit', '-p', 'tsconfig.json']],
    ['lint', 'oxlint', ['--type-aware', '--deny-warnings']],
    ['format', 'oxfmt', ['--check', '.']],
  ];
  const failed = [];
  for (const [name, program, programArgs] of checks) {
    process.stdout.write(`== ${name}\n`);
    const status = await run(bin(program), programArgs);
    if (status >= 128) return status;
    if (status !== 0) failed.push(name);
  }
  try {
    await ensureBuilt();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    failed.push('build');
  }
  process.stdout.write(failed.length === 0 ? '== tests\n' : `== tests (failed so far: ${failed.join(', ')})\n`);
  rmSync(SUMMARY_FILE, { force: true });
  const status = await run(bin('vitest'), ['run', ...args]);
  if (failed.length > 0) process.stdout.write(`failed: ${failed.join(', ')} (messages above)\n`);
  if (process.env.BALLAST_CI === '1') printCounts(failed.length);
  return status !== 0 ? status : failed.length > 0 ? 1 : 0;
}

/** The last line in CI. A check that failed counts as one; so does a test run that ended without counts. */
function printCounts(failedChecks) {
  const counts = readJson(SUMMARY_FILE) ?? { passed: 0, failed: 1 };
  process.stdout.write(`${counts.passed} passed, ${counts.failed + failedChecks} failed\n`);
}

function bin(program) {
  return path.join(ROOT, 'node_modules/.bin', program);
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  process.stderr.write(`ballast: ${error.message}\n`);
  process.exitCode = 1;
}
