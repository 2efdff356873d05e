/**
 * One Ballast per data directory: `run/ballast.pid` names the process that has it.
 *
 * The file appears whole (written aside, then linked under its name) and a file whose process is gone is taken over.
 * A pid alone says little after a reboot, so where the system tells when a process began that is part of the name.
 */
import { randomBytes } from 'node:crypto';
import { link, mkdir, readFile, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Home } from './home.ts';
import { AppError } from './lib/errors.ts';

export interface HomeLock {
  release(): Promise<void>;
}

/** A takeover lasts milliseconds; one that is older was interrupted. */
const TAKEOVER_WITHIN_MS = 5_000;

/** Throws AppError 'conflict' naming the process that has the directory. */
export async function lockHome(home: Pick<Home, 'pidFile' | 'dataDir'>): Promise<HomeLock> {
  const { pidFile, dataDir } = home;
  const aside = `${pidFile}.${randomBytes(6).toString('hex')}`;
  await writeFile(aside, `${process.pid} ${await startTime(process.pid)}\n`, { mode: 0o600 });
  try {
    while (!(await succeeds(link(aside, pidFile)))) {
      const holder = await readHolder(pidFile);
      if (holder?.lives) throw new AppError('conflict', `Ballast already runs on ${dataDir} (pid ${holder.pid})`);
      await removeStale(pidFile);
    }
  } finally {
    await rm(aside, { force: true });
  }
  return { release: () => rm(pidFile, { force: true }) };
}

/** Undefined when there is no file. */
async function readHolder(pidFile: string): Promise<{ pid: number; lives: boolean } | undefined> {
  const content = await readFile(pidFile, 'utf8').catch(() => undefined);
  if (content === undefined) return undefined;
  const pid = Number(content.split(' ')[0]);
  return { pid, lives: content === `${pid} ${await startTime(pid)}\n` };
}

/**
 * One process at a time may remove, and looks again before it does: the file may be another's fresh one by then. While a
 * stale one is there nobody can put a fresh one in its place.
 */
async function removeStale(pidFile: string): Promise<void> {
  const takeover = `${pidFile}.takeover`;
  if (!(await succeeds(mkdir(takeover)))) {
    const facts = await stat(takeover).catch(() => undefined);
    if (facts && Date.now() - facts.mtimeMs > TAKEOVER_WITHIN_MS) await rmdir(takeover).catch(() => undefined);
    await sleep(5);
    return;
  }
  try {
    const holder = await readHolder(pidFile);
    if (holder && !holder.lives) await rm(pidFile, { force: true });
  } finally {
    await rmdir(takeover);
  }
}

/** False when the name is taken. */
async function succeeds(making: Promise<unknown>): Promise<boolean> {
  try {
    await making;
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** When the process began, in the system's own terms; `gone` when there is none, `running` when the system does not tell. */
async function startTime(pid: number): Promise<string> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return 'gone';
  }
  try {
    const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
    const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    // Zombies have let go of everything.
    return fields[0] === 'Z' ? 'gone' : `${boot}/${fields[19]}`;
  } catch {
    return process.platform === 'linux' ? 'gone' : 'running';
  }
}
