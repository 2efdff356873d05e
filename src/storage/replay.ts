/**
 * Puts a base and the WAL behind it in place, up to a point, for Postgres to replay.
 *
 * The base is the timeline's own, a seed (seeds.ts), or, from before the timeline had any, one of its origin: then the
 * WAL of each timeline on the way is staged up to where the next one forked off, and recovery follows their ids.
 */
import path from 'node:path';
import { AppError } from '../lib/errors.ts';
import { formatLsn, parseLsn } from '../lib/lsn.ts';
import { segmentNumberOf } from '../postgres/wal.ts';
import { nearEnough, pickBase, takeHotBase } from './bases.ts';
import type { ReplaySource } from './bases.ts';
import { siblingLayout, timelineKey } from './layout.ts';
import type { TimelineLayout } from './layout.ts';
import { readTimelineRecord } from './records.ts';
import type { StoredTimeline } from './records.ts';
import { adoptSource, cloneSource, factsOf, flushedLsn, outsideHistory, readControlWithRetry } from './sources.ts';
import type { MaterialiseContext, Parent } from './sources.ts';
import type { FileOwner } from './types.ts';
import { copyWal, cutSegment, findPoint, stageHistory, stageSegments, walFilesOf, walSource } from './wal-files.ts';
import type { WalFiles, WalPoint } from './wal-files.ts';

/** `lsn` undefined: as far as the running parent has flushed. */
export async function findReplay(
  context: MaterialiseContext,
  parent: Parent,
  target: Pick<TimelineLayout, 'pgdata'>,
  owner: FileOwner | undefined,
  lsn: bigint | undefined,
): Promise<Replayed> {
  const { layout, record, live } = parent;
  const attempt = async (nearBy: boolean) => {
    const point = lsn ?? (await flushedLsn(live!));
    const notBefore = nearBy ? nearEnough(point) : undefined;
    return replayTo(context, parent, target.pgdata, owner, { point, notBefore });
  };
  const first = await attempt(lsn === undefined);
  if (first) return first;
  if (lsn !== undefined || !live) throw outsideHistory();
  const { timelineId } = await readControlWithRetry(layout.pgdata);
  await context.baseLocks.exclusive(timelineKey(record), async () => {
    // Another child may have taken one while this one waited.
    const lsn = await flushedLsn(live);
    if (await pickBase(context, layout, record, { lsn, timelineId, notBefore: nearEnough(lsn) })) return;
    await takeHotBase(context, layout, live, { major: record.pgVersion, owner });
  });
  // However much was written while the base was copied, which takes its time where clones are not free: nothing is nearer.
  const second = await attempt(false);
  if (!second) throw new AppError('unavailable', 'the history of the parent branch changed meanwhile; try again');
  return second;
}

/** A base and WAL, in place: what recovery will make of them. */
export interface Replayed extends WalPoint {
  source: ReplaySource;
  /** Where the WAL of whatever starts on it forks off. */
  origin: StoredTimeline['origin'];
  followTimelineId: number | null;
  /** Files that were written to. */
  stamped: string[];
  cut: string[];
}

interface Wanted {
  point: bigint;
  /** Replay must not begin before it: another base could be taken instead. */
  notBefore: bigint | undefined;
}

/**
 * Puts a base and the WAL up to the point in place: a base of the timeline's own, or, from before it had one, of its
 * origin. WAL and bases are trimmed together, so as long as the bases are held the WAL stays.
 * Undefined, and nothing done: there is nothing to begin with, or nothing near.
 */
function replayTo(
  context: MaterialiseContext,
  parent: Pick<Parent, 'record' | 'layout'>,
  dataDirectory: string,
  owner: FileOwner | undefined,
  wanted: Wanted,
): Promise<Replayed | undefined> {
  const { record, layout } = parent;
  return context.baseLocks.shared(timelineKey(record), async () => {
    const control = await readControlWithRetry(layout.pgdata);
    const files = walFilesOf(layout, factsOf(parent, control));
    const { point, notBefore } = wanted;
    const source = await pickBase(context, layout, record, { lsn: point, timelineId: control.timelineId, notBefore });
    if (source && !source.seed) return replayOnto(context, { record, files, source, point }, dataDirectory, owner);
    const begun = source
      ? await beginWithSeed(context, record, source, dataDirectory, owner)
      : await beginWithOrigin(context, parent, dataDirectory, owner, wanted);
    return begun && goOn(context, { record, files, begun, point }, dataDirectory);
  });
}

async function replayOnto(
  context: MaterialiseContext,
  from: { record: StoredTimeline; files: WalFiles; source: ReplaySource; point: bigint },
  dataDirectory: string,
  owner: FileOwner | undefined,
): Promise<Replayed> {
  const { record, files, source, point } = from;
  const first = segmentNumberOf(source.startLsn, files.segmentSizeBytes);
  const [found, stamped] = await Promise.all([
    findPoint(walSource(files), point, first),
    cloneSource(context, source, dataDirectory, owner).then(() =>
      adoptSource(source, dataDirectory, BigInt(record.systemIdentifier), owner),
    ),
  ]);
  const cut = await stage(context, files, { first, endLsn: found.endLsn }, dataDirectory);
  const origin = { timelineId: record.timelineId, lsn: formatLsn(found.endLsn) };
  return { ...found, source, origin, followTimelineId: null, stamped, cut };
}

async function beginWithSeed(
  context: MaterialiseContext,
  record: StoredTimeline,
  source: ReplaySource,
  dataDirectory: string,
  owner: FileOwner | undefined,
): Promise<Replayed> {
  await cloneSource(context, source, dataDirectory, owner);
  await copyWal(context.driver, path.join(source.dataDirectory, 'pg_wal'), path.join(dataDirectory, 'pg_wal'));
  const time = record.branchTimestamp;
  const lastCommit = time === null ? undefined : { endLsn: source.stopLsn, time };
  const { followTimelineId } = source.seed!;
  return { endLsn: source.stopLsn, lastCommit, source, origin: record.origin, followTimelineId, stamped: [], cut: [] };
}

async function beginWithOrigin(
  context: MaterialiseContext,
  { record, layout }: Pick<Parent, 'record' | 'layout'>,
  dataDirectory: string,
  owner: FileOwner | undefined,
  { point, notBefore }: Wanted,
): Promise<Replayed | undefined> {
  const { origin, historyStart } = record;
  if (origin === null || historyStart !== null || point < parseLsn(origin.lsn)) return undefined;
  const itsLayout = siblingLayout(layout, origin.timelineId);
  const itsRecord = await readTimelineRecord(itsLayout);
  if (!itsRecord || itsRecord.recovery !== 'none') return undefined;
  const forkLsn = parseLsn(origin.lsn);
  if (notBefore !== undefined && forkLsn < notBefore) return undefined;
  return replayTo(context, { record: itsRecord, layout: itsLayout }, dataDirectory, owner, {
    point: forkLsn,
    notBefore,
  });
}

/** From the branch point on along the timeline's own WAL. */
async function goOn(
  context: MaterialiseContext,
  from: { record: StoredTimeline; files: WalFiles; begun: Replayed; point: bigint },
  dataDirectory: string,
): Promise<Replayed> {
  const { record, files, begun, point } = from;
  if (point <= begun.endLsn) return begun;
  const first = segmentNumberOf(begun.endLsn, files.segmentSizeBytes);
  const found = await findPoint(walSource(files), point, first);
  if (found.endLsn <= begun.endLsn) return begun;
  const cut = await stage(context, files, { first, endLsn: found.endLsn }, dataDirectory);
  const origin = { timelineId: record.timelineId, lsn: formatLsn(found.endLsn) };
  return { ...begun, ...found, origin, followTimelineId: files.timelineId, cut: [...begun.cut, ...cut] };
}

/** Puts the WAL in place and cuts it at the point. Answers the files that it wrote to. */
async function stage(
  context: MaterialiseContext,
  files: WalFiles,
  range: { first: number; endLsn: bigint },
  dataDirectory: string,
): Promise<string[]> {
  const walDirectory = path.join(dataDirectory, 'pg_wal');
  const last = segmentNumberOf(range.endLsn - 1n, files.segmentSizeBytes);
  const segments = await stageSegments(context.driver, files, { first: range.first, last }, walDirectory);
  await stageHistory(context.driver, files, walDirectory);
  await cutSegment(segments.at(-1)!, range.endLsn, files.segmentSizeBytes);
  return segments.slice(-1);
}
