/**
 * timeline.json and base.json: the commit records of a timeline and of a base. Renamed into place last, so a record
 * that can be read speaks for everything beside it; a record that cannot be read speaks for nothing.
 */
import { readFile, readdir, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { writeFileDurably } from '../lib/durable.ts';
import type { Durable } from '../lib/durable.ts';
import { parseLsn } from '../lib/lsn.ts';
import type { Lsn } from '../lib/lsn.ts';
import type { TimelineLayout } from './layout.ts';
import type { TimelineRecord } from './types.ts';

/** Also what only storage needs to know. */
export interface StoredTimeline extends TimelineRecord {
  /** Build of the template that its project began with; see PostgresInstallation.build. */
  build: string;
  /** Of a root: the template it was cloned from, which serves as its first base. */
  template: string | null;
  /** While recovery is `replay`: what the clone was made from, and can be made from again. */
  replaySource: ReplaySourceRef | null;
  /** Where its own WAL begins: of which timeline, and at which of its LSNs. Null for a root. */
  origin: Origin | null;
  /** Once its history has been trimmed: where the oldest base that is left stands. Nothing before can be reached. */
  historyStart: Lsn | null;
}

export interface Origin {
  timelineId: string;
  lsn: Lsn;
}

export type ReplaySourceRef =
  | { kind: 'template'; name: string }
  | { kind: 'base'; timelineId: string; number: number }
  /** A snapshot, which is never started and so stays what it is. */
  | { kind: 'snapshot'; timelineId: string };

export interface BaseRecord {
  formatVersion: 1;
  number: number;
  /** `hot`: taken from a running Postgres, with a backup_label. `rest`: a clean shutdown. */
  kind: 'hot' | 'rest';
  timelineId: number;
  /** Replay starts here. */
  startLsn: Lsn;
  /** Nothing before it can be the end of a replay. */
  stopLsn: Lsn;
  /** What is in it was current at this time. */
  createdAt: string;
  /**
   * The timeline as it was made, before its first start: a base of its origin, with the WAL up to the branch point in
   * its pg_wal. `timelineId` is the origin's.
   */
  seed?: { followTimelineId: number | null };
}

export interface Base extends BaseRecord {
  directory: string;
  dataDirectory: string;
}

export async function readTimelineRecord(layout: Pick<TimelineLayout, 'record'>): Promise<StoredTimeline | undefined> {
  const record = await readJson<Written>(layout.record);
  if (record?.formatVersion !== 1) return undefined;
  const { branchId, parentBranchId, ...rest } = record;
  const named = branchId === undefined ? rest : { ...rest, timelineId: branchId, parentTimelineId: parentBranchId! };
  const { parentTimelineId, branchLsn } = named;
  const origin = parentTimelineId === null ? null : { timelineId: parentTimelineId, lsn: branchLsn! };
  return { kind: 'branch', recoveryTimelineId: null, historyStart: null, origin, ...named };
}

type Later = 'kind' | 'recoveryTimelineId' | 'historyStart' | 'origin';

/** As it may have been written by an earlier Ballast, when a timeline had the name of its branch. */
type Written = Omit<StoredTimeline, Later> &
  Partial<Pick<StoredTimeline, Later>> & { branchId?: string; parentBranchId?: string | null };

/**
 * The first record of a timeline: the moment from which it exists. It gets its name before it is synced, so that one
 * sync does for both; torn by a power cut it cannot be parsed, and then the timeline had not been created yet.
 */
export async function createTimelineRecord(
  durable: Durable,
  layout: TimelineLayout,
  record: StoredTimeline,
): Promise<void> {
  const temporary = `${layout.record}.tmp`;
  await writeFile(temporary, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
  await rename(temporary, layout.record);
  await durable.file('timeline-record', layout.record);
}

export async function writeTimelineRecord(
  durable: Durable,
  layout: TimelineLayout,
  record: StoredTimeline,
): Promise<void> {
  await writeFileDurably(durable, 'timeline-record', layout.record, `${JSON.stringify(record, null, 2)}\n`);
}

export async function writeBaseRecord(durable: Durable, directory: string, record: BaseRecord): Promise<void> {
  await writeFileDurably(durable, 'base', path.join(directory, 'base.json'), `${JSON.stringify(record, null, 2)}\n`);
}

/** Of every timeline of the project. */
export async function readProjectRecords(layout: TimelineLayout): Promise<StoredTimeline[]> {
  const names = await readdir(layout.project);
  const records = await Promise.all(
    names.map((name) => readTimelineRecord({ record: path.join(layout.project, name, path.basename(layout.record)) })),
  );
  return records.filter((record) => record !== undefined);
}

/** In the order of what they hold, newest last. */
export async function readBases(layout: TimelineLayout): Promise<Base[]> {
  const names = (await readdir(layout.bases).catch(() => [])).filter((name) => /^\d+$/.test(name));
  const bases: Base[] = [];
  for (const name of names) {
    const directory = path.join(layout.bases, name);
    const record = await readJson<BaseRecord>(path.join(directory, 'base.json'));
    if (record !== undefined) bases.push({ ...record, directory, dataDirectory: path.join(directory, 'pgdata') });
  }
  return bases.toSorted((a, b) => Number(parseLsn(a.stopLsn) - parseLsn(b.stopLsn)) || a.number - b.number);
}

/** Undefined when it is missing or, after a power cut in the wrong moment, empty or torn. */
async function readJson<T>(file: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as T;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}
