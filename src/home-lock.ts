/**
 * One Ballast per data directory: `run/ballast.pid` names the process that has it.
 *
 * The file appears whole (written aside, then linked under its name) and a file whose process is gone is taken over.
 * A pid alone says little after a reboot, so where the system tells when a process began that is part of the name.
 */
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import type { Home } from './home.ts';
import { AppError } from './lib/errors.ts';

export interface HomeLock {
  release(): Promise<void>;
}

/** Throws AppError 'conflict' naming the process that has the directory. */
export async function lockHome(home: Pick<Home, 'pidFile' | 'dataDir'>): Promise<HomeLock> {
  const mine = `${process.pid} ${await startTime(process.pid)}\n`;
  const aside = `${home.pidFile}.${process.pid}`;
  await writeFile(aside, mine, { mode: 0o600 });
  try {
    while (!(await takes(aside, home.pidFile))) {
      const theirs = await readFile(home.pidFile, 'utf8').catch(() => undefined);
      if (theirs === undefined) continue;
      const pid = Number(theirs.split(' ')[0]);
      if (theirs === `${pid} ${await startTime(pid)}\n`) {
        throw new AppError('conflict', `Ballast already runs on ${home.dataDir} (pid ${pid})`);
      }
      await removeIfStill(home.pidFile, theirs, aside);
    }
  } finally {
    await rm(aside, { force: true });
  }
  return { release: () => rm(home.pidFile, { force: true }) };
}

async function takes(aside: string, file: string): Promise<boolean> {
  try {
    await link(aside, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Two processes may find the same stale file: what was moved away is looked at again, and put back if it is not that one. */
async function removeIfStill(file: string, content: string, aside: string): Promise<void> {
  const moved = `${aside}.stale`;
  try {
    await rename(file, moved);
  } catch {
    return;
  }
  if ((await readFile(moved, 'utf8')) !== content) await link(moved, file).catch(() => undefined);
  await rm(moved, { force: true });
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
