/**
 * What `npm start`, `npm test`, `npm run bench` and `npm run ballast` call: sees to packages and build, then runs.
 * Works on a fresh clone with nothing but Node and npm; asks nothing.
 */
import { rmSync } from 'node:fs';
import path from 'node:path';
import { ROOT, SUMMARY_FILE, SetupError, checkNode, ensureBuilt, ensureInstalled, readJson, run } from './setup.mjs';

/** More than these are no accident. */
const MAX_FILES_AGAIN = 3;

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
  const inCi = process.env.BALLAST_CI === '1';
  const first = await runTests(args);
  const { status, counts } = inCi && deservesAnotherRun(first) ? await runAgain(first, args) : first;
  if (failed.length > 0) process.stdout.write(`failed: ${failed.join(', ')} (messages above)\n`);
  // A check that failed counts as one.
  if (inCi) process.stdout.write(`${counts.passed} passed, ${counts.failed + failed.length} failed\n`);
  return status !== 0 ? status : failed.length > 0 ? 1 : 0;
}

/** A run that ended without counts counts as one failure. */
async function runTests(args) {
  rmSync(SUMMARY_FILE, { force: true });
  const status = await run(bin('vitest'), ['run', ...args]);
  return { status, counts: readJson(SUMMARY_FILE) ?? { passed: 0, failed: 1, failedFiles: [], unhandledErrors: 0 } };
}

/** A test that fails in CI runs once more (vitest.config.ts); what fails before the first test of a file does not. */
function deservesAnotherRun({ counts }) {
  return counts.failedFiles.length > 0 && counts.failedFiles.length <= MAX_FILES_AGAIN && counts.unhandledErrors === 0;
}

async function runAgain({ counts }, args) {
  const files = counts.failedFiles.map(({ file }) => file);
  process.stdout.write(`\n== files that failed, once more: ${files.join(', ')}\n`);
  const again = await runTests([...args.filter((arg) => arg.startsWith('-')), ...files]);
  const passedBefore = counts.failedFiles.reduce((sum, { passed }) => sum + passed, 0);
  const passed = counts.passed - passedBefore + again.counts.passed;
  return { status: again.status, counts: { ...again.counts, passed } };
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
