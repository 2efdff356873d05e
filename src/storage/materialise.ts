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
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { formatLsn, parseLsn } from '../lib/lsn.ts';
import { readControlData } from '../postgres/control-data.ts';
import type { ControlData } from '../postgres/control-data.ts';
import { scanWal, segmentNumberOf } from '../postgres/wal.ts';
import { assertNoTablespaces, nearEnough, pickBase, takeRestBase } from './bases.ts';
import { STAGED_WAL } from './clone-rules.ts';
import { timelineKey } from './layout.ts';
import type { TimelineLayout } from './layout.ts';
import type { StoredTimeline } from './records.ts';
import { findReplay } from './replay.ts';
import { adopt, factsOf, outsideHistory, writeSignal } from './sources.ts';
import type { MaterialiseContext, Parent } from './sources.ts';
import { mayHaveSubscriptions } from './subscriptions.ts';
import type { FileOwner, TimelinePoint, TimelineRecord } from './types.ts';
import {
  findPoint,
  keepStagedWal,
  keptCopyOf,
  stageHistory,
  stageSegments,
  walFilesOf,
  walSource,
} from './wal-files.ts';
import type { WalFiles, WalPoint } from './wal-files.ts';

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

async function cloneAsItIs(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  owner: FileOwner | undefined,
): Promise<Filled> {
  const rules = { asItIs: true, backupLabel: true };
  await context.driver.cloneData(parent.layout.pgdata, target.pgdata, { rules, live: false, owner });
  const { branchLsn, branchTimestamp, recovery, suspectSubscriptions, origin, recoveryTimelineId } = parent.record;
  const { kind, timelineId } = parent.record;
  // A snapshot outlives the base that it was made from.
  const replaySource = kind === 'snapshot' ? ({ kind, timelineId } as const) : parent.record.replaySource;
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
  const wanted = { lsn: endLsn, timelineId: facts.control.timelineId, notBefore: nearEnough(endLsn) };
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
  const suspectBefore = await mayHaveSubscriptions(parent.layout.pgdata);
  const replayed = await findReplay(context, parent, target, spec.owner, lsn);
  const written = [...replayed.stamped, ...replayed.cut];
  if (spec.keepStaged) {
    await keepStagedWal(context.driver, target.pgdata, spec.owner);
    written.push(...replayed.cut.map(keptCopyOf));
  }
  const suspect = suspectBefore || (await mayHaveSubscriptions(target.pgdata));
  return {
    branchLsn: formatLsn(replayed.endLsn),
    branchTimestamp: replayed.lastCommit?.time ?? parent.record.branchTimestamp,
    recovery: 'replay',
    suspectSubscriptions: suspect || (await mayHaveSubscriptions(parent.layout.pgdata)),
    replaySource: replayed.source.ref,
    origin: replayed.origin,
    recoveryTimelineId: replayed.followTimelineId,
    startLsn: replayed.source.startLsn,
    labelled: replayed.source.kind === 'hot',
    written,
  };
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
