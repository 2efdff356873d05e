/**
 * Makes durable what recovery wrote while fsync was off. A checkpoint under fsync = off forgets which files it should
 * have flushed, so switching fsync on afterwards does not make up for it: every file that changed is synced from here.
 */
import { lstat, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import type { Durable } from '../lib/durable.ts';
import type { TimelineLayout } from './layout.ts';

const SYNCED_AT_ONCE = 16;

interface Changed {
  path: string;
  isDirectory: boolean;
}

/**
 * The clone itself was durable when timeline.json was written; only what changed since can be missing. File times of
 * one file system come from one clock, so they order as the writes did; if that clock has been set back meanwhile,
 * everything is synced.
 */
export async function syncRecovered(durable: Durable, layout: TimelineLayout, nowMs: number): Promise<void> {
  const recordMs = (await stat(layout.record)).mtimeMs;
  const changed = await changedSince(layout.pgdata, nowMs < recordMs ? 0 : recordMs);
  // Files first: a directory is to name what is there.
  await syncAll(
    durable,
    changed.filter((entry) => !entry.isDirectory),
  );
  await syncAll(
    durable,
    changed.filter((entry) => entry.isDirectory),
  );
}

async function syncAll(durable: Durable, entries: readonly Changed[]): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < entries.length) await syncOne(durable, entries[next++]!);
  };
  await Promise.all(Array.from({ length: SYNCED_AT_ONCE }, worker));
}

async function syncOne(durable: Durable, entry: Changed): Promise<void> {
  try {
    await durable[entry.isDirectory ? 'directory' : 'file']('recovered-file', entry.path);
  } catch (error) {
    // Postgres runs: statistics and WAL files come and go.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Changed at that time or later, the root included. One process lists a thousand files faster than we can ask for each. */
async function changedSince(root: string, sinceMs: number): Promise<Changed[]> {
  const listed = process.platform === 'linux' ? await listByFind(root) : await listByStat(root);
  return listed.filter((entry) => entry.mtimeMs >= sinceMs);
}

type Listed = Changed & { mtimeMs: number };

async function listByFind(root: string): Promise<Listed[]> {
  const said = await run('find', [root, '(', '-type', 'f', '-o', '-type', 'd', ')', '-printf', '%T@ %y %p\\0'], {
    env: { PATH: '/usr/bin:/bin', LC_ALL: 'C' },
    // It complains about files that went away while it looked.
    tolerateFailure: true,
  });
  const entries = said.split('\0').filter((line) => line !== '');
  if (entries.length === 0) throw new Error(`find lists nothing below ${root}`);
  return entries.map((line) => {
    const [seconds, type] = line.split(' ', 2);
    // The nanoseconds beyond a double's precision are rounded up, towards syncing one file more.
    const mtimeMs = Number(seconds) * 1000 + 0.001;
    return { mtimeMs, isDirectory: type === 'd', path: line.slice(seconds!.length + 3) };
  });
}

async function listByStat(root: string): Promise<Listed[]> {
  const entries = await readdir(root, { withFileTypes: true, recursive: true });
  const listed = await Promise.all(
    entries.map(async (entry): Promise<Listed | undefined> => {
      const place = path.join(entry.parentPath, entry.name);
      const stats = await lstat(place).catch(() => undefined);
      if (!stats || !(stats.isFile() || stats.isDirectory())) return undefined;
      return { path: place, isDirectory: stats.isDirectory(), mtimeMs: stats.mtimeMs };
    }),
  );
  const own = { path: root, isDirectory: true, mtimeMs: (await lstat(root)).mtimeMs };
  return [own, ...listed.filter((entry) => entry !== undefined)];
}
