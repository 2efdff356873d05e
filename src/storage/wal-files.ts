/**
 * A timeline's WAL on disk: whole segments in its archive, the newest ones in its live pg_wal.
 *
 * A segment may move from live to archive while it is looked for, hence the order archive, live, archive. What is
 * found must say in its first page that it is the segment: Postgres may have reused a file for a later one.
 */
import { chown, mkdir, open, readFile, readdir, truncate } from 'node:fs/promises';
import path from 'node:path';
import { isSegment, scanWal, segmentName, segmentNumberOf } from '../postgres/wal.ts';
import type { WalCommit, WalSource } from '../postgres/wal.ts';
import type { CloneDriver } from './clone-driver.ts';
import { STAGED_WAL } from './clone-rules.ts';
import type { TimelineLayout } from './layout.ts';
import type { FileOwner } from './types.ts';

export interface WalFiles {
  major: number;
  timelineId: number;
  segmentSizeBytes: number;
  archive: string;
  live: string;
}

export function walFilesOf(
  layout: TimelineLayout,
  facts: { major: number; timelineId: number; segmentSizeBytes: number },
): WalFiles {
  return { ...facts, archive: layout.wal, live: path.join(layout.pgdata, 'pg_wal') };
}

export function walSource(files: WalFiles): WalSource {
  return {
    major: files.major,
    segmentSizeBytes: files.segmentSizeBytes,
    readSegment: (number) => findSegment(files, number, async (file) => readFile(file)),
  };
}

async function findSegment<T>(
  files: WalFiles,
  number: number,
  take: (file: string) => Promise<T>,
): Promise<T | undefined> {
  const name = segmentName(files.timelineId, number, files.segmentSizeBytes);
  for (const directory of [files.archive, files.live, files.archive]) {
    const file = path.join(directory, name);
    try {
      const taken = await take(file);
      const page = Buffer.isBuffer(taken) ? taken : await firstPage(file);
      if (isSegment(page, files.major, number, files.segmentSizeBytes)) return taken;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return undefined;
}

async function firstPage(file: string): Promise<Buffer> {
  const handle = await open(file, 'r');
  try {
    const page = Buffer.alloc(64);
    await handle.read(page, 0, page.length, 0);
    return page;
  } finally {
    await handle.close();
  }
}

/**
 * Clones the segments `first..last` into `directory`; throws when one is nowhere to be found.
 * Each clone is checked itself: what was read from a live directory may have been reused in between.
 */
export async function stageSegments(
  driver: CloneDriver,
  files: WalFiles,
  range: { first: number; last: number },
  directory: string,
): Promise<string[]> {
  const staged: string[] = [];
  for (let number = range.first; number <= range.last; number += 1) {
    const target = path.join(directory, segmentName(files.timelineId, number, files.segmentSizeBytes));
    const found = await findSegment(files, number, async (file) => {
      await driver.cloneFile(file, target);
      return firstPage(target);
    });
    if (found === undefined) throw new Error(`WAL segment ${path.basename(target)} is neither archived nor live`);
    staged.push(target);
  }
  return staged;
}

/** The history of the current timeline id, which the next promotion continues. None for id 1. */
export async function stageHistory(driver: CloneDriver, files: WalFiles, directory: string): Promise<void> {
  if (files.timelineId === 1) return;
  const name = `${files.timelineId.toString(16).toUpperCase().padStart(8, '0')}.history`;
  const target = path.join(directory, name);
  for (const origin of [files.live, files.archive]) {
    try {
      await driver.cloneFile(path.join(origin, name), target);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  throw new Error(`history file ${name} is neither archived nor live`);
}

/** Ends WAL exactly at `end`: what follows in the segment becomes zeros, which no reader takes for a record. */
export async function cutSegment(file: string, end: bigint, segmentSizeBytes: number): Promise<void> {
  const kept = Number(end % BigInt(segmentSizeBytes));
  // Zero: the last record ends where the segment does.
  if (kept === 0) return;
  await truncate(file, kept);
  await truncate(file, segmentSizeBytes);
}

/** Second copies of all staged WAL, out of recovery's reach; see replay-again.ts. */
export async function keepStagedWal(
  driver: CloneDriver,
  dataDirectory: string,
  owner: FileOwner | undefined,
): Promise<void> {
  const kept = path.join(dataDirectory, STAGED_WAL);
  await mkdir(kept, { mode: 0o700 });
  if (owner) await chown(kept, owner.uid, owner.gid);
  await copyWal(driver, path.join(dataDirectory, 'pg_wal'), kept);
}

export async function copyWal(driver: CloneDriver, from: string, to: string): Promise<string[]> {
  const entries = await readdir(from, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isFile()).map((entry) => entry.name);
  await Promise.all(names.map((name) => driver.cloneFile(path.join(from, name), path.join(to, name))));
  return names.map((name) => path.join(to, name));
}

/** Where keepStagedWal puts the copy of a staged file. */
export const keptCopyOf = (staged: string): string =>
  path.join(path.dirname(path.dirname(staged)), STAGED_WAL, path.basename(staged));

export interface WalPoint {
  endLsn: bigint;
  lastCommit: WalCommit | undefined;
}

/** How far back to look for the time of the last commit before giving up, in segments. */
const COMMIT_SEARCH_SEGMENTS = 16;

/**
 * The last record boundary at or before `limitLsn`, and the last commit before it. Starts in the segment of the limit
 * and goes back only while that segment has no record, or no commit, of its own.
 */
export async function findPoint(source: WalSource, limitLsn: bigint, oldestSegment: number): Promise<WalPoint> {
  const size = BigInt(source.segmentSizeBytes);
  const last = segmentNumberOf(limitLsn - 1n, source.segmentSizeBytes);
  let point: bigint | undefined;
  for (let number = last; number >= oldestSegment && last - number < COMMIT_SEARCH_SEGMENTS; number -= 1) {
    if (number < last && (await source.readSegment(number)) === undefined) break;
    const start = BigInt(number) * size;
    const scan = await scanWal(source, { fromLsn: start, limitLsn: point ?? limitLsn });
    // A record that fills the whole segment and more has its end elsewhere, or nowhere yet.
    if (scan.records > 0) point ??= scan.endLsn;
    if (point !== undefined && scan.lastCommit) return { endLsn: point, lastCommit: scan.lastCommit };
  }
  if (point === undefined) throw new Error('no record boundary before the point');
  return { endLsn: point, lastCommit: undefined };
}
