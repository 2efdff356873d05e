/**
 * Makes durable what recovery wrote while fsync was off. A checkpoint under fsync = off forgets which files it should
 * have flushed, so switching fsync on afterwards does not make up for it: every file that changed is synced from here.
 */
import { lstat, readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { syncDirectories } from '../lib/durable.ts';
import type { Durable } from '../lib/durable.ts';
import type { TimelineLayout } from './layout.ts';

const SYNCED_AT_ONCE = 16;
/**
 * The clone itself was durable when timeline.json was written; only what changed since can be missing. File times of
 * one file system come from one clock, so they order as the writes did; if that clock has been set back meanwhile,
 * everything is synced.
 */
export async function syncRecovered(durable: Durable, layout: TimelineLayout, nowMs: number): Promise<void> {
  const recordMs = (await stat(layout.record)).mtimeMs;
  const since = nowMs < recordMs ? 0 : recordMs;
  const entries = await readdir(layout.pgdata, { withFileTypes: true, recursive: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
  let next = 0;
  const worker = async () => {
    while (next < files.length) await syncIfChanged(durable, files[next++]!, since);
  };
  await Promise.all(Array.from({ length: SYNCED_AT_ONCE }, worker));
  await syncDirectories(durable, 'recovered-file', layout.pgdata);
}

async function syncIfChanged(durable: Durable, file: string, sinceMs: number): Promise<void> {
  try {
    if ((await lstat(file)).mtimeMs >= sinceMs) await durable.file('recovered-file', file);
  } catch (error) {
    // Postgres runs: statistics and WAL files come and go.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
