/**
 * One Postgres server process: started detached in its data directory, watched, stopped.
 *
 * Readiness is read from the last line of postmaster.pid, which the postmaster rewrites as it comes up: that costs
 * nothing and answers within a poll step, where pg_ctl sleeps 100 ms at a time. A server outlives a crash of Ballast,
 * so nothing here relies on being its parent: an exit is noticed by the child's event or by the pid going away.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { open, readFile, unlink } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../lib/errors.ts';
import type { PostgresInstallation } from './types.ts';

export interface ServerOptions {
  installation: PostgresInstallation;
  dataDirectory: string;
  owner: { uid: number; gid: number } | undefined;
  /** After `-D <data directory>`. */
  args: readonly string[];
  /** A command that replaces itself by the one after it, such as setpriv with its options. */
  launcher?: readonly string[];
  /** Receives what Postgres prints; appended to. */
  logFile: string;
  /** How long it may take until it accepts connections; recovery counts. */
  readyWithinMs: number;
  /** Called with its pid at once, before it has children. */
  onSpawn?: (pid: number) => void;
  /**
   * It is meant to stay in recovery and answer queries there. Otherwise `standby` is not ready: with hot_standby off
   * Postgres writes that word as soon as any recovery begins, and refuses connections until it ends.
   */
  standby?: boolean;
  signal?: AbortSignal;
}

export interface ServerProcess {
  pid: number;
  /** Resolves when the postmaster is gone, however it ended. */
  exited: Promise<void>;
}

export interface PostmasterFile {
  pid: number;
  socketDirectory: string;
  /** `starting`, `ready`, `standby`, `stopping`, or empty in the first moments. */
  status: string;
}

const POLL_STEP_MS = 1;
const EXIT_POLL_STEP_MS = 200;

/** Throws AppError 'unavailable' with the end of the log as `internal` when it does not become ready. */
export async function startServer(options: ServerOptions): Promise<ServerProcess> {
  await removeStalePidFile(options.dataDirectory);
  const logStart = await fileSize(options.logFile);
  const child = spawnServer(options);
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  let gone = false;
  void exited.then(() => (gone = true));
  child.unref();
  if (child.pid !== undefined) options.onSpawn?.(child.pid);
  const deadlineMs = performance.now() + options.readyWithinMs;
  for (;;) {
    const file = gone ? undefined : await readPostmaster(options.dataDirectory);
    if (file && file.pid === child.pid && (file.status === 'ready' || (options.standby && file.status === 'standby'))) {
      return { pid: file.pid, exited };
    }
    const late = performance.now() > deadlineMs;
    if (gone || late || options.signal?.aborted) {
      if (!gone && child.pid !== undefined) process.kill(child.pid, 'SIGQUIT');
      const reason = gone ? 'it exited' : late ? 'it took too long' : 'it was cancelled';
      throw new AppError('unavailable', `Postgres did not start: ${reason}`, {
        internal: await logTail(options.logFile, logStart),
      });
    }
    await sleep(POLL_STEP_MS);
  }
}

function spawnServer(options: ServerOptions) {
  const log = openSync(options.logFile, 'a', 0o600);
  try {
    const command = [
      ...(options.launcher ?? []),
      options.installation.postgres,
      '-D',
      options.dataDirectory,
      ...options.args,
    ];
    return spawn(command[0]!, command.slice(1), {
      cwd: options.dataDirectory,
      env: { ...options.installation.env, LC_ALL: 'C', TZ: 'UTC' },
      stdio: ['ignore', log, log],
      // A group of its own: Ctrl-C in the terminal reaches Ballast, which then stops Postgres in order.
      detached: true,
      ...(options.owner && { uid: options.owner.uid, gid: options.owner.gid }),
    });
  } finally {
    closeSync(log);
  }
}

/** Undefined when there is no postmaster.pid or it is not complete yet. The pid may be dead: see `isAlive`. */
export async function readPostmaster(dataDirectory: string): Promise<PostmasterFile | undefined> {
  let text: string;
  try {
    text = await readFile(path.join(dataDirectory, 'postmaster.pid'), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid === 0) return undefined;
  return { pid, socketDirectory: lines[4] ?? '', status: (lines[7] ?? '').trim() };
}

/** True while a process with that pid exists, zombies of ours aside. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** True when the pid runs in that data directory: pids are reused, directories are not. Linux checks; others trust the pid. */
export async function isServerOf(dataDirectory: string, pid: number): Promise<boolean> {
  if (!isAlive(pid)) return false;
  if (process.platform !== 'linux') return true;
  try {
    const cmdline = await readFile(`/proc/${pid}/cmdline`, 'utf8');
    return cmdline.split('\0').includes(dataDirectory);
  } catch {
    return false;
  }
}

/** The server that runs in the directory now, whoever started it. */
export async function findServer(dataDirectory: string): Promise<ServerProcess | undefined> {
  const file = await readPostmaster(dataDirectory);
  if (!file || !(await isServerOf(dataDirectory, file.pid))) return undefined;
  return { pid: file.pid, exited: whenGone(dataDirectory, file.pid) };
}

async function whenGone(dataDirectory: string, pid: number): Promise<void> {
  while (await isServerOf(dataDirectory, pid)) {
    await sleep(EXIT_POLL_STEP_MS, undefined, { ref: false });
  }
}

const STOP_SIGNALS = { smart: 'SIGTERM', fast: 'SIGINT', immediate: 'SIGQUIT' } as const;

/**
 * Stops the server and waits until it is gone: fast, then immediate, then SIGKILL to its process group.
 * Returns how it ended; `fast` is the only one after which the directory needs no crash recovery.
 */
export async function stopServer(
  server: { pid: number },
  dataDirectory: string,
  options: { fastWithinMs: number; immediateWithinMs?: number },
): Promise<'fast' | 'immediate' | 'killed'> {
  signalServer(server.pid, STOP_SIGNALS.fast);
  if (await goneWithin(dataDirectory, server.pid, options.fastWithinMs)) return 'fast';
  signalServer(server.pid, STOP_SIGNALS.immediate);
  if (await goneWithin(dataDirectory, server.pid, options.immediateWithinMs ?? 5000)) return 'immediate';
  signalServer(-server.pid, 'SIGKILL');
  await goneWithin(dataDirectory, server.pid, 5000);
  return 'killed';
}

function signalServer(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

async function goneWithin(dataDirectory: string, pid: number, withinMs: number): Promise<boolean> {
  const deadlineMs = performance.now() + withinMs;
  while (await isServerOf(dataDirectory, pid)) {
    if (performance.now() > deadlineMs) return false;
    await sleep(POLL_STEP_MS);
  }
  return true;
}

/** A pid file left by a crash makes Postgres refuse when its pid lives again as somebody else's process. */
async function removeStalePidFile(dataDirectory: string): Promise<void> {
  const file = await readPostmaster(dataDirectory);
  if (!file) return;
  if (await isServerOf(dataDirectory, file.pid)) {
    throw new AppError('unavailable', 'Postgres already runs on this timeline', { internal: `pid ${file.pid}` });
  }
  await unlink(path.join(dataDirectory, 'postmaster.pid'));
}

async function fileSize(file: string): Promise<number> {
  try {
    const handle = await open(file, 'r');
    const { size } = await handle.stat();
    await handle.close();
    return size;
  } catch {
    return 0;
  }
}

async function logTail(file: string, from: number): Promise<string> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.slice(from).slice(-4000);
}
