/**
 * materialise(source timeline, point) -> the data directory of a child, durable but not yet recovered.
 *
 * Three sources, one result (a directory that starts by recovering, then moves to a timeline id of its own):
 *   as it is   the parent has never been started: its clone is cloned, recovery and all
 *   at rest    the parent's data directory with the WAL from its last checkpoint on
 *   replay     a base, plus the parent's WAL up to the point, cut there: running parents, and points in the past
 *
 * Never a recovery target: recovery runs to the end of WAL, and the end of WAL is the point. So it can neither stop
 * short nor fail for want of a record that proves the end. The timeline id always moves on, at rest too: parent and
 * child would otherwise write different segments under one name.
 */
import { chown, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { AppError } from '../lib/errors.ts';
import type { KeyLock } from '../lib/key-lock.ts';
import { formatLsn, parseLsn } from '../lib/lsn.ts';
import { restampSystemIdentifier, readControlData } from '../postgres/control-data.ts';
import type { ControlData } from '../postgres/control-data.ts';
import { scanWal, segmentNumberOf } from '../postgres/wal.ts';
import { assertNoTablespaces, pickBase, takeHotBase, takeRestBase } from './bases.ts';
import type { BaseContext, ReplaySource } from './bases.ts';
import { run } from '../lib/child-process.ts';
import { timelineKey } from './layout.ts';
import type { TimelineLayout } from './layout.ts';
import type { StoredTimeline } from './records.ts';
import { STAGED_WAL } from './clone-rules.ts';
import { mayHaveSubscriptions } from './subscriptions.ts';
import type { FileOwner, LivePostgres, TimelinePoint, TimelineRecord } from './types.ts';
import {
  copyWal,
  cutSegment,
  findPoint,
  keepStagedWal,
  keptCopyOf,
  stageHistory,
  stageSegments,
  walFilesOf,
  walSource,
} from './wal-files.ts';
import type { WalFiles, WalPoint } from './wal-files.ts';

export interface MaterialiseContext extends BaseContext {
  baseLocks: KeyLock;
}

export interface Parent {
  record: StoredTimeline;
  layout: TimelineLayout;
  /** Undefined: it is at rest, and stays so until materialise returns. */
  live: LivePostgres | undefined;
}

export type Materialised = Pick<
  StoredTimeline,
  'branchLsn' | 'branchTimestamp' | 'suspectSubscriptions' | 'replaySource' | 'origin' | 'recoveryTimelineId'
> & {
  recovery: Exclude<TimelineRecord['recovery'], 'none'>;
};

export interface Filled extends Materialised {
  /** Where replay begins; undefined when nothing is replayed. */
  startLsn: bigint | undefined;
  /** It begins from a backup_label. */
  labelled: boolean;
  /** Files that were written to, in what is otherwise cloned. */
  written: string[];
}

export interface FillSpec {
  point: TimelinePoint;
  owner: FileOwner | undefined;
  /** Keep second copies of the WAL: a replay without fsync may have to be done again; see replay-again.ts. */
  keepStaged: boolean;
}

/** Fills `target.pgdata`, which must not exist. Returns when it is durable. */
export async function materialise(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  spec: Pick<FillSpec, 'point' | 'owner'>,
): Promise<Materialised> {
  const filled = await fill(context, parent, target, { ...spec, keepStaged: true });
  await writeSignal(target.pgdata, spec.owner);
  await context.driver.sync(context.durable, target.pgdata, filled.written);
  return recorded(filled);
}

/** The same for a Postgres that stays in recovery and is thrown away with its process: nothing is made durable. */
export async function materialiseStandby(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  spec: Pick<FillSpec, 'point' | 'owner'>,
): Promise<Materialised> {
  const filled = await fill(context, parent, target, { ...spec, keepStaged: false });
  await rm(path.join(target.pgdata, 'recovery.signal'), { force: true });
  await rm(path.join(target.pgdata, STAGED_WAL), { recursive: true, force: true });
  await writeSignal(target.pgdata, spec.owner, 'standby.signal');
  return recorded(filled);
}

function recorded({ startLsn: _start, labelled: _labelled, written: _written, ...rest }: Filled): Materialised {
  return rest;
}

export async function fill(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  spec: FillSpec,
): Promise<Filled> {
  await assertNoTablespaces(parent.layout.pgdata);
  const { record, live } = parent;
  if (record.recovery !== 'none') {
    if (spec.point.kind === 'lsn' && spec.point.lsn !== record.branchLsn) throw outsideHistory();
    return cloneAsItIs(context, parent, target, spec.owner);
  }
  if (spec.point.kind === 'lsn') return replay(context, parent, target, spec, parseLsn(spec.point.lsn));
  return live ? replay(context, parent, target, spec, undefined) : cloneAtRest(context, parent, target, spec);
}

export const outsideHistory = (): AppError =>
  new AppError('unprocessable', 'the requested point is outside of the history of the branch');

async function cloneAsItIs(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  owner: FileOwner | undefined,
): Promise<Filled> {
  const rules = { asItIs: true, backupLabel: true };
  await context.driver.cloneData(parent.layout.pgdata, target.pgdata, { rules, live: false, owner });
  const { branchLsn, branchTimestamp, recovery, suspectSubscriptions, replaySource } = parent.record;
  const { origin, recoveryTimelineId } = parent.record;
  if (branchLsn === null || recovery === 'none')
    throw new Error('a timeline that has yet to recover has a branch point');
  const made = { branchLsn, branchTimestamp, recovery, suspectSubscriptions, replaySource, origin, recoveryTimelineId };
  return { ...made, startLsn: undefined, labelled: false, written: [] };
}

async function cloneAtRest(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  spec: FillSpec,
): Promise<Filled> {
  const { owner } = spec;
  const control = await readControlData(parent.layout.pgdata);
  const files = walFilesOf(parent.layout, factsOf(parent, control));
  if (control.state !== 'shut down') return replayAfterCrash(context, parent, target, spec, { control, files });
  const rules = { asItIs: false, backupLabel: false };
  const [point] = await Promise.all([
    pointAtRest(files, control.redoLsn),
    context.driver.cloneData(parent.layout.pgdata, target.pgdata, { rules, live: false, owner }),
  ]);
  const first = segmentNumberOf(control.redoLsn, files.segmentSizeBytes);
  const last = segmentNumberOf(point.endLsn - 1n, files.segmentSizeBytes);
  const walDirectory = path.join(target.pgdata, 'pg_wal');
  await stageSegments(context.driver, files, { first, last }, walDirectory);
  await stageHistory(context.driver, files, walDirectory);
  const branchLsn = formatLsn(point.endLsn);
  return {
    branchLsn,
    branchTimestamp: point.lastCommit?.time ?? parent.record.branchTimestamp,
    recovery: 'promote',
    suspectSubscriptions: await mayHaveSubscriptions(target.pgdata),
    replaySource: null,
    origin: { timelineId: parent.record.timelineId, lsn: branchLsn },
    recoveryTimelineId: null,
    startLsn: undefined,
    labelled: false,
    written: [],
  };
}

/** Nobody vouches for the tail of WAL, so the scan checks every record. What is there becomes a base of its own. */
async function replayAfterCrash(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  spec: FillSpec,
  facts: { control: ControlData; files: WalFiles },
): Promise<Filled> {
  const { endLsn } = await scanWal(walSource(facts.files), { fromLsn: facts.control.redoLsn, verify: true });
  const wanted = { lsn: endLsn, timelineId: facts.control.timelineId, near: true };
  await context.baseLocks.exclusive(timelineKey(parent.record), async () => {
    if (await pickBase(context, parent.layout, parent.record, wanted)) return;
    await takeRestBase(context, parent.layout, { control: facts.control, stopLsn: endLsn }, spec.owner);
  });
  return replay(context, parent, target, spec, endLsn);
}

async function pointAtRest(files: WalFiles, redoLsn: bigint): Promise<WalPoint> {
  const scan = await scanWal(walSource(files), { fromLsn: redoLsn });
  if (scan.lastCommit) return scan;
  return { endLsn: scan.endLsn, lastCommit: (await findPoint(walSource(files), scan.endLsn, 0)).lastCommit };
}

/** `lsn` undefined: as far as the running parent has flushed. */
async function replay(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  spec: FillSpec,
  lsn: bigint | undefined,
): Promise<Filled> {
  const { record } = parent;
  const suspectBefore = await mayHaveSubscriptions(parent.layout.pgdata);
  const control = await readControlWithRetry(parent.layout.pgdata);
  const files = walFilesOf(parent.layout, factsOf(parent, control));
  const { staged, source, written } = await withSource(
    context,
    parent,
    spec.owner,
    { lsn, timelineId: control.timelineId },
    // WAL and bases are trimmed together: as long as the base is held, its WAL stays.
    async (source, point) => {
      const [staged, stamped] = await Promise.all([
        findStaged(files, record, source, point),
        cloneSource(context, source, target.pgdata, spec.owner).then(() =>
          adoptSource(source, target.pgdata, BigInt(record.systemIdentifier), spec.owner),
        ),
      ]);
      const cut = await stage(context, files, source, staged, target.pgdata);
      if (!spec.keepStaged) return { staged, source, written: [...stamped, ...cut] };
      await keepStagedWal(context.driver, target.pgdata, spec.owner);
      return { staged, source, written: [...stamped, ...cut, ...cut.map(keptCopyOf)] };
    },
  );
  const suspect = suspectBefore || (await mayHaveSubscriptions(target.pgdata));
  const branchLsn = formatLsn(staged.endLsn);
  const own = staged.first !== undefined;
  return {
    branchLsn,
    branchTimestamp: staged.lastCommit?.time ?? record.branchTimestamp,
    recovery: 'replay',
    suspectSubscriptions: suspect || (await mayHaveSubscriptions(parent.layout.pgdata)),
    replaySource: source.ref,
    origin: own ? { timelineId: record.timelineId, lsn: branchLsn } : record.origin,
    recoveryTimelineId: source.seed ? (own ? control.timelineId : source.seed.followTimelineId) : null,
    startLsn: source.startLsn,
    labelled: source.kind === 'hot',
    written,
  };
}

/** The point, and which segments of the timeline's own WAL lead there. `first` undefined: none, the seed is the point. */
interface Staged extends WalPoint {
  first: number | undefined;
}

async function findStaged(
  files: WalFiles,
  record: StoredTimeline,
  source: ReplaySource,
  point: bigint,
): Promise<Staged> {
  const first = segmentNumberOf(source.seed ? source.stopLsn : source.startLsn, files.segmentSizeBytes);
  const found = point > source.stopLsn ? await findPoint(walSource(files), point, first) : undefined;
  if (found && (!source.seed || found.endLsn > source.stopLsn)) return { ...found, first };
  const time = record.branchTimestamp;
  const lastCommit = time === null ? undefined : { endLsn: source.stopLsn, time };
  return { endLsn: source.stopLsn, lastCommit, first: source.seed ? undefined : first };
}

/** Puts the WAL in place and cuts it at the point. Answers the files that it wrote to. */
async function stage(
  context: MaterialiseContext,
  files: WalFiles,
  source: ReplaySource,
  staged: Staged,
  dataDirectory: string,
): Promise<string[]> {
  const walDirectory = path.join(dataDirectory, 'pg_wal');
  if (source.seed) await copyWal(context.driver, path.join(source.dataDirectory, 'pg_wal'), walDirectory);
  if (staged.first === undefined) return [];
  const last = segmentNumberOf(staged.endLsn - 1n, files.segmentSizeBytes);
  const segments = await stageSegments(context.driver, files, { first: staged.first, last }, walDirectory);
  await stageHistory(context.driver, files, walDirectory);
  await cutSegment(segments.at(-1)!, staged.endLsn, files.segmentSizeBytes);
  return segments.slice(-1);
}

/** Finds or takes a base for the point and keeps it from being removed while `work` clones it. */
async function withSource<T>(
  context: MaterialiseContext,
  parent: Parent,
  owner: FileOwner | undefined,
  wanted: { lsn: bigint | undefined; timelineId: number },
  work: (source: ReplaySource, point: bigint) => Promise<T>,
): Promise<T> {
  const { layout, record, live } = parent;
  const key = timelineKey(record);
  const tryClone = () =>
    context.baseLocks.shared(key, async () => {
      const lsn = wanted.lsn ?? (await flushedLsn(live!));
      const near = wanted.lsn === undefined;
      const source = await pickBase(context, layout, record, { lsn, timelineId: wanted.timelineId, near });
      return source && { value: await work(source, lsn) };
    });
  const cloned = await tryClone();
  if (cloned) return cloned.value;
  if (wanted.lsn !== undefined || !live) throw outsideHistory();
  await context.baseLocks.exclusive(key, async () => {
    // Another child may have taken one while this one waited.
    const point = { lsn: await flushedLsn(live), timelineId: wanted.timelineId, near: true };
    if (await pickBase(context, layout, record, point)) return;
    await takeHotBase(context, layout, live, { major: record.pgVersion, owner });
  });
  const second = await tryClone();
  if (!second) throw new AppError('unavailable', 'the parent branch writes faster than it can be copied; try again');
  return second.value;
}

/**
 * The head: everything that anybody can have seen committed by now, and nothing that is not flushed: what a crash takes
 * from the parent, the child must not know either. But a transaction that committed asynchronously (as workers
 * of subscriptions do) is seen before it is flushed, so whatever is in between is flushed by a commit of our own: the
 * comment that the database `postgres` has anyway, which no stream of changes carries.
 */
export async function flushedLsn(live: LivePostgres): Promise<bigint> {
  const positions = 'select pg_catalog.pg_current_wal_flush_lsn(), pg_catalog.pg_current_wal_insert_lsn()';
  const [flushed, inserted] = (await live.query(positions))[0]!.map((lsn) => parseLsn(lsn!)) as [bigint, bigint];
  if (flushed >= inserted) return flushed;
  await live.query(`comment on database postgres is 'default administrative connection database'`);
  // Flushed by now; the comment itself lies behind it.
  return inserted;
}

/** A template is Ballast's own: its files become the owner's afterwards. */
export function cloneSource(
  context: BaseContext,
  source: Pick<ReplaySource, 'dataDirectory' | 'kind' | 'ref'>,
  target: string,
  owner: FileOwner | undefined,
): Promise<void> {
  const rules = { asItIs: false, backupLabel: source.kind === 'hot' };
  const reader = source.ref.kind === 'template' ? undefined : owner;
  return context.driver.cloneData(source.dataDirectory, target, { rules, live: false, owner: reader });
}

export async function adoptSource(
  source: Pick<ReplaySource, 'ref'>,
  target: string,
  systemIdentifier: bigint,
  owner: FileOwner | undefined,
): Promise<string[]> {
  return source.ref.kind === 'template' ? adopt(target, systemIdentifier, owner) : [];
}

/** A clone of the template becomes the project's: its owner and its system identifier. Returns what it wrote. */
async function adopt(dataDirectory: string, systemIdentifier: bigint, owner: FileOwner | undefined): Promise<string[]> {
  const written = await restampSystemIdentifier(dataDirectory, systemIdentifier);
  if (owner) await run('chown', ['-hR', `${owner.uid}:${owner.gid}`, dataDirectory]);
  return written;
}

/** The root of a project: the template under a new system identifier. It needs no recovery. */
export async function cloneTemplate(
  context: MaterialiseContext,
  template: { dataDirectory: string },
  target: TimelineLayout,
  spec: { systemIdentifier: bigint; owner: FileOwner | undefined },
): Promise<void> {
  // As it is: at rest, the template's WAL is the segment with its last checkpoint.
  const rules = { asItIs: true, backupLabel: false };
  await context.driver.cloneData(template.dataDirectory, target.pgdata, { rules, live: false, owner: undefined });
  const written = await adopt(target.pgdata, spec.systemIdentifier, spec.owner);
  await context.driver.sync(context.durable, target.pgdata, written);
}

export async function writeSignal(
  dataDirectory: string,
  owner: FileOwner | undefined,
  name = 'recovery.signal',
): Promise<void> {
  const file = path.join(dataDirectory, name);
  await writeFile(file, '', { mode: 0o600 });
  if (owner) await chown(file, owner.uid, owner.gid);
}

export function factsOf(parent: Parent, control: ControlData) {
  return {
    major: parent.record.pgVersion,
    timelineId: control.timelineId,
    segmentSizeBytes: control.walSegmentSizeBytes,
  };
}

/** A running Postgres rewrites the file now and then; reading it in that moment gives a wrong checksum. */
export async function readControlWithRetry(dataDirectory: string): Promise<ControlData> {
  for (let tried = 1; ; tried += 1) {
    try {
      return await readControlData(dataDirectory);
    } catch (error) {
      if (tried === 5) throw error;
    }
  }
}
