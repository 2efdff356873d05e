/**
 * What storage takes and gives: plain specs in, facts out. Storage never sees the catalog.
 *
 * A timeline is a branch's data on disk, at `<pool>/<projectId>/<timelineId>/` (layout in storage/layout.ts). Restoring
 * a branch gives it another timeline; which one it has is the catalog's to know.
 */
import type { Lsn } from '../lib/lsn.ts';
import type { HistoryWindow, PointQuery, ResolvedPoint } from '../lib/point.ts';

export interface TimelineRef {
  projectId: string;
  /** The first timeline of a branch has the branch's id, a snapshot's the snapshot's, a standby its endpoint's. */
  timelineId: string;
}

/** The operating-system user that owns a project's files and runs its computes. Undefined: Ballast's own user. */
export interface FileOwner {
  uid: number;
  gid: number;
}

export type CloneMode = 'reflink' | 'snapshot' | 'copy';

export interface RootTimelineSpec extends TimelineRef {
  pgVersion: number;
  owner: FileOwner | undefined;
}

/** `head` is the newest transaction that was durable when the work began. */
export type TimelinePoint = { kind: 'head' } | { kind: 'lsn'; lsn: Lsn };

export interface ChildTimelineSpec extends TimelineRef {
  parentTimelineId: string;
  owner: FileOwner | undefined;
  point: TimelinePoint;
  /** A snapshot is never started, a copy is thrown away by who made it. Default: branch. */
  kind?: 'branch' | 'snapshot' | 'copy';
}

/** Like a child, but it is never promoted: Postgres stays in recovery on it and answers queries. */
export interface StandbyTimelineSpec extends TimelineRef {
  parentTimelineId: string;
  owner: FileOwner | undefined;
  point: TimelinePoint;
}

/** The content of timeline.json, the commit record of a timeline. Without that file the directory is garbage. */
export interface TimelineRecord extends TimelineRef {
  formatVersion: 1;
  /** `standby`: worth nothing without the compute that runs on it. `copy`: nothing without who made it. */
  kind: 'branch' | 'snapshot' | 'standby' | 'copy';
  pgVersion: number;
  /** PostgreSQL's system identifier, one per project, decimal. */
  systemIdentifier: string;
  parentTimelineId: string | null;
  /** Where it left its parent. Null for a root. */
  branchLsn: Lsn | null;
  /** Time of the last commit at or before branchLsn, ISO with microseconds; null when none was seen. */
  branchTimestamp: string | null;
  /**
   * What the first start still has to do:
   * `none`: started before. `promote`: at-rest clone, recovery.signal only bumps the timeline id.
   * `replay`: staged WAL must be replayed; it runs with fsync off, and everything is synced before clients enter.
   */
  recovery: 'none' | 'promote' | 'replay';
  /** For recovery_target_timeline where recovery has to follow a later timeline id than its base's; null: `current`. */
  recoveryTimelineId: number | null;
  /** The clone may hold enabled subscriptions, which must be dropped before a launcher can run. */
  suspectSubscriptions: boolean;
  createdAt: string;
}

export interface PoolStatus {
  path: string;
  cloneMode: CloneMode;
  fileSystem: string;
  totalBytes: number;
  freeBytes: number;
  /** `ok`; `high`: new branches are refused; `full`: writers must be suspended. */
  watermark: 'ok' | 'high' | 'full';
}

export interface TimelineSize {
  /** Bytes of all files as Postgres sees them. */
  logicalBytes: number;
  /** Extents of the large files (FIEMAP); undefined where they cannot be counted. */
  extents: number | undefined;
}

/** What storage needs of a running read-write compute, injected by the composition root. */
export interface LivePostgres {
  /** One statement on an internal (cloud_admin) session; rows as arrays of text or null. */
  query(sql: string): Promise<(string | null)[][]>;
  /** A session of its own (pg_backup_start and pg_backup_stop must share one). */
  session<T>(work: (query: (sql: string) => Promise<(string | null)[][]>) => Promise<T>): Promise<T>;
}

export type FindLivePostgres = (timeline: TimelineRef) => LivePostgres | undefined;

/**
 * The engine's storage half. Every method is idempotent: run twice, or run again after a crash at any point,
 * it ends in the same state.
 *
 * Errors: AppError 'not_found' (no such timeline), 'unavailable' (pool full; try later), 'unprocessable' (bad point).
 */
export interface Storage {
  /** Makes the template of a major if there is none: a few seconds, once. */
  prepareTemplate(pgVersion: number): Promise<void>;
  /** Clones the template of a major with a new system identifier. */
  createRootTimeline(spec: RootTimelineSpec): Promise<TimelineRecord>;
  /**
   * materialise(parent, point): durable when it returns; the first start finishes recovery.
   * Waits while the parent starts or stops; `signal` ends that waiting.
   */
  createChildTimeline(spec: ChildTimelineSpec, signal?: AbortSignal): Promise<TimelineRecord>;
  /**
   * Makes a standby's data anew; whatever was there under that id is thrown away. Not durable: a crash ends it. The
   * caller sees to it that no Postgres runs on it (withDataDirectory of the standby may be held, and is not taken here).
   * Its Postgres answers queries before it has replayed everything: it stands at the point once
   * pg_last_wal_replay_lsn() has reached the record's branchLsn.
   */
  createStandbyTimeline(spec: StandbyTimelineSpec, signal?: AbortSignal): Promise<TimelineRecord>;
  /**
   * Where a point of the timeline's history lies, by its WAL. A time means the last commit at or before it.
   * Throws 'unprocessable' for what is outside of the window, before the timeline began, or in the future.
   */
  resolvePoint(timeline: TimelineRef, query: PointQuery, window: HistoryWindow): Promise<ResolvedPoint>;
  /**
   * Renames away, then removes; the timeline is gone when it returns. No error if there is none. Those whose history
   * begins in this one's first get a beginning of their own, unless they are about to go as well (`withDependents`).
   */
  deleteTimeline(timeline: TimelineRef, options?: { withDependents?: boolean }): Promise<void>;
  readTimeline(timeline: TimelineRef): Promise<TimelineRecord | undefined>;
  /** The live data directory; exists as long as the timeline does. */
  dataDirectory(timeline: TimelineRef): string;
  /** Archive directory of the timeline's WAL, writable by its owner. */
  walDirectory(timeline: TimelineRef): string;
  /**
   * Keeps clones away from the data directory while `work` starts or stops its Postgres.
   * A clone of a suspended timeline holds the same lock for the tens of milliseconds that it takes.
   * A first start that a power cut interrupted may have left anything: the data directory is made anew before `work`.
   */
  withDataDirectory<T>(timeline: TimelineRef, work: () => Promise<T>): Promise<T>;
  /** After the first start finished recovery: syncs what recovery wrote, then records recovery = 'none'. */
  finishRecovery(timeline: TimelineRef): Promise<TimelineRecord>;
  /** Called when a compute has stopped cleanly: takes a base where that is cheap, rewrites fragmented files. */
  afterSuspend(timeline: TimelineRef): Promise<void>;
  /**
   * Takes a base where much WAL has been written since the last one, so that every point stays cheap to reach, or where
   * the last one is so old for a history window of `windowMs` that nothing could be trimmed.
   */
  keepHistory(timeline: TimelineRef, window: { windowMs: number }): Promise<void>;
  /**
   * Removes bases and WAL that no point from `startMs` (since the epoch) on needs. What children, or the `pinned`
   * points, still need stays.
   */
  trimHistory(timeline: TimelineRef, window: { startMs: number; pinned: readonly Lsn[] }): Promise<void>;
  /**
   * Keeps a text beside the project's timelines, in one durable step; it goes with the last of them. False: there are
   * none.
   */
  describeProject(projectId: string, text: string): Promise<boolean>;
  /** What describeProject was given last; undefined when there is nothing that can be read. */
  projectDescription(projectId: string): Promise<string | undefined>;
  size(timeline: TimelineRef): Promise<TimelineSize>;
  /** Bytes that it shares with no other; undefined where the file system does not tell. Reads every file's map. */
  ownBytes(timeline: TimelineRef): Promise<number | undefined>;
  poolStatus(): Promise<PoolStatus>;
  /** Throws 'unavailable' when a new timeline must be refused for lack of space. */
  assertRoomForTimeline(): Promise<void>;
  /** Every timeline that timeline.json vouches for, and directories that nothing vouches for. */
  listTimelines(): Promise<{ timelines: TimelineRecord[]; garbage: string[] }>;
  removeGarbage(paths: readonly string[]): Promise<void>;
}
