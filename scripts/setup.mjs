/**
 * What must be there before anything of Ballast can run: a Node new enough, the packages of package-lock.json, and
 * an up-to-date dist/. Plain JavaScript without dependencies, because it runs on a fresh clone.
 *
 * Whether packages are there is read from npm's own record, node_modules/.package-lock.json, so that installing by hand
 * counts too. dist/ carries the hash of what it was built from. Both steps run under one lock directory (.cache/setup.lock,
 * with the holder's pid inside): several commands may start at once.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const CACHE = path.join(ROOT, '.cache');
/** Counts of the latest test run, for run.mjs. */
export const SUMMARY_FILE = path.join(CACHE, 'test-summary.json');
const DIST = path.join(ROOT, 'dist');
const BUILD_HASH = path.join(DIST, '.build-hash');
/** What dist/ is made from. */
const SOURCES = [
  'src',
  'openapi',
  'package.json',
  'package-lock.json',
  'tsconfig.json',
  'tsconfig.build.json',
  'scripts/build.mjs',
  'scripts/extract-contract.mjs',
];
const MINIMUM_NODE = [20, 19];
const LOCK_POLL_MS = 200;
const LOCK_WITHOUT_PID_MS = 5000;

/** An error whose message is all that the user needs; no stack is shown. */
export class SetupError extends Error {}

export function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > MINIMUM_NODE[0] || (major === MINIMUM_NODE[0] && minor >= MINIMUM_NODE[1])) return;
  throw new SetupError(
    `Ballast needs Node ${MINIMUM_NODE.join('.')} or newer; this is ${process.versions.node} (${process.execPath}).`,
  );
}

/** Installs packages when they are missing or differ from package-lock.json. */
export async function ensureInstalled() {
  if (installed()) return;
  await withLock(async () => {
    if (installed()) return;
    assertWritable(ROOT, 'packages are not installed');
    process.stderr.write('ballast: installing packages (npm ci) ...\n');
    // No package needs its install script, and a clone should not run strangers' code as root.
    await npm(['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']);
    if (!installed()) throw new SetupError('npm ci ended well, but node_modules does not match package-lock.json.');
  });
}

/** Builds dist/ when it is missing or older than its sources. */
export async function ensureBuilt() {
  if (built()) return;
  await withLock(async () => {
    if (built()) return;
    assertWritable(ROOT, 'dist/ is missing or out of date');
    process.stderr.write('ballast: building ...\n');
    const status = await run(process.execPath, [path.join(ROOT, 'scripts/build.mjs')]);
    if (status !== 0) throw new SetupError('The build failed; its messages are above.');
  });
}

export function buildHash() {
  const hash = createHash('sha256');
  for (const source of SOURCES) addToHash(hash, source);
  return hash.digest('hex');
}

function addToHash(hash, relative) {
  const absolute = path.join(ROOT, relative);
  const stats = statSync(absolute, { throwIfNoEntry: false });
  if (stats === undefined || relative.endsWith('.test.ts')) return;
  if (stats.isDirectory()) {
    for (const name of readdirSync(absolute).sort()) addToHash(hash, `${relative}/${name}`);
    return;
  }
  const content = readFileSync(absolute);
  hash.update(`${relative}\0${content.length}\0`).update(content);
}

function built() {
  return readText(BUILD_HASH) === buildHash();
}

/** True when every package of the lock file is there in its version, but for those of other platforms. */
function installed() {
  const wanted = readJson(path.join(ROOT, 'package-lock.json'));
  const found = readJson(path.join(ROOT, 'node_modules/.package-lock.json'));
  if (!wanted) throw new SetupError(`package-lock.json is missing or unreadable in ${ROOT}.`);
  if (!found) return false;
  return Object.entries(wanted.packages).every(([where, entry]) => {
    if (where === '') return true;
    const has = found.packages[where];
    return has === undefined ? entry.optional === true || entry.peer === true : has.version === entry.version;
  });
}

async function npm(args) {
  // Under `npm start` npm says where it is; otherwise the one of the PATH.
  const script = process.env.npm_execpath;
  const [command, first] = script && /npm-cli\.[cm]?js$/.test(script) ? [process.execPath, [script]] : ['npm', []];
  const env = { ...process.env };
  // `npm start --omit=dev` and the like must not reach this npm: the build needs the development packages.
  for (const name of Object.keys(env)) {
    if (/^npm_config_(omit|include|production|only|global|prefix|local_prefix|dry_run)$/i.test(name)) delete env[name];
  }
  delete env.NODE_ENV;
  if (!homeIsWritable()) env.npm_config_cache = path.join(CACHE, 'npm');
  const status = await run(command, [...first, ...args], { env });
  if (status === 0) return;
  throw new SetupError('npm ci failed; its messages are above. It needs the network (or a registry mirror) once.');
}

/** npm keeps its cache below the home directory, which may be unset, missing or somebody else's. */
function homeIsWritable() {
  return Boolean(process.env.HOME) && isWritable(process.env.HOME);
}

function isWritable(directory) {
  try {
    accessSync(directory, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function assertWritable(directory, why) {
  if (isWritable(directory)) return;
  throw new SetupError(
    `${why}, and ${directory} is not writable by this user. Run \`npm start\` there once as its owner, or use a clone of your own.`,
  );
}

async function withLock(work) {
  assertWritable(ROOT, 'Something must be installed or built first');
  mkdirSync(CACHE, { recursive: true });
  const lock = path.join(CACHE, 'setup.lock');
  let told = false;
  while (!takeLock(lock)) {
    const holder = Number(readText(path.join(lock, 'pid')) ?? 0);
    if (holder > 0 ? !isAlive(holder) : isOld(lock)) {
      rmSync(lock, { recursive: true, force: true });
      continue;
    }
    if (!told)
      process.stderr.write(`ballast: waiting for the setup of another process (${holder || 'starting'}) ...\n`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, LOCK_POLL_MS));
  }
  try {
    return await work();
  } finally {
    rmSync(lock, { recursive: true, force: true });
  }
}

function takeLock(lock) {
  try {
    mkdirSync(lock);
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
  writeFileSync(path.join(lock, 'pid'), String(process.pid));
  return true;
}

/** A holder that died before it wrote its pid. */
function isOld(lock) {
  const stats = statSync(lock, { throwIfNoEntry: false });
  return stats !== undefined && Date.now() - stats.mtimeMs > LOCK_WITHOUT_PID_MS;
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function readText(file) {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return undefined;
  }
}

export function readJson(file) {
  const text = readText(file);
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * Runs a program to its end in the foreground and passes on the signals that this process gets meanwhile.
 * Resolves to its exit status, 128 + n for a signal as shells have it.
 */
export function run(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: 'inherit', cwd: ROOT, ...options });
    const forward = (signal) => child.kill(signal);
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
    for (const signal of signals) process.on(signal, forward);
    const done = () => signals.forEach((signal) => process.off(signal, forward));
    child.once('error', (error) => {
      done();
      reject(new SetupError(`Cannot run ${command}: ${error.message}`));
    });
    child.once('exit', (status, signal) => {
      done();
      resolve(status ?? 128 + (os.constants.signals[signal] ?? 0));
    });
  });
}
