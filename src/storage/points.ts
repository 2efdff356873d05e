/**
 * Finds points of a timeline's history in its WAL: an LSN means the record boundary at or before it, a time the end of
 * the last commit before the first one that committed later. Works alike for running, sleeping and crashed timelines.
 *
 * Commit times rise with the WAL but for a few microseconds between sessions, so segments can be searched by halves and
 * the few around the place are read whole.
 */
import { AppError } from '../lib/errors.ts';
import { formatLsn, parseLsn } from '../lib/lsn.ts';
import type { HistoryWindow, PointQuery, ResolvedPoint } from '../lib/point.ts';
import { timeToMs } from '../lib/point.ts';
import { readControlData } from '../postgres/control-data.ts';
import { scanWal, segmentNumberOf } from '../postgres/wal.ts';
import type { WalCommit, WalSource } from '../postgres/wal.ts';
import type { BaseContext } from './bases.ts';
import { factsOf, flushedLsn, readControlWithRetry } from './sources.ts';
import type { Parent } from './sources.ts';
import { readBases } from './records.ts';
import { findPoint, walFilesOf, walSource } from './wal-files.ts';

/** What a timeline can go back to. */
export interface Reach {
  /** Nothing before can be the end of a replay. */
  startLsn: bigint;
  /** Its first state was current from then on, in milliseconds since the epoch; the second counts, as in the API. */
  startMs: number;
}

/** Undefined: nothing is left that a replay could begin with. */
export async function reachOf(
  context: BaseContext,
  parent: Pick<Parent, 'record' | 'layout'>,
): Promise<Reach | undefined> {
  const { record, layout } = parent;
  const since = (startLsn: bigint, time: string): Reach => ({ startLsn, startMs: wholeSecond(Date.parse(time)) });
  if (record.historyStart === null && record.origin !== null)
    return since(parseLsn(record.origin.lsn), record.createdAt);
  const template = record.template === null ? undefined : await context.templates.find(record.template);
  if (record.historyStart === null && template) return since(parseLsn(template.redoLsn), record.createdAt);
  const [oldest] = await readBases(layout);
  return oldest && since(parseLsn(oldest.stopLsn), oldest.createdAt);
}

const wholeSecond = (ms: number): number => Math.floor(ms / 1000) * 1000;

/** Segments on either side of the one that a search by time ends in: what they hold may be out of order. */
const NEIGHBOURS = 1;

const refuse = (text: string): AppError => new AppError('unprocessable', text);
const BEFORE_WINDOW = 'the requested point in time is before the history window of the branch';
const BEFORE_BRANCH = 'the requested point in time is before the branch was created';
const IN_FUTURE = 'the requested point in time is in the future';

/** Throws AppError 'unprocessable'. The caller keeps a timeline at rest from starting, and its history from being trimmed. */
export async function resolvePoint(
  parent: Parent,
  reach: Reach,
  query: PointQuery,
  window: HistoryWindow,
): Promise<ResolvedPoint> {
  if (query.kind === 'time') assertInTime(query.time, reach, window);
  const { record } = parent;
  if (record.recovery !== 'none') {
    // It has never run: all of its history is one state.
    if (query.kind === 'lsn') assertLsn(parseLsn(query.lsn), parseLsn(record.branchLsn!), parseLsn(record.branchLsn!));
    return { lsn: record.branchLsn!, time: record.branchTimestamp };
  }
  const { source, headLsn } = await openHistory(parent);
  const oldest = segmentNumberOf(reach.startLsn, source.segmentSizeBytes);
  const answer = (point: { endLsn: bigint; lastCommit: WalCommit | undefined }): ResolvedPoint => ({
    lsn: formatLsn(point.endLsn < reach.startLsn ? reach.startLsn : point.endLsn),
    time: point.lastCommit?.time ?? record.branchTimestamp,
  });
  if (query.kind === 'time')
    return answer(await pointInTime(source, { startLsn: reach.startLsn, headLsn, time: query.time }));
  if (query.kind === 'head') return answer(await findPoint(source, headLsn, oldest));
  const wanted = parseLsn(query.lsn);
  assertLsn(wanted, reach.startLsn, headLsn);
  const point = await findPoint(source, wanted, oldest);
  await assertInWindow(source, { from: point.endLsn, headLsn }, window);
  return answer(point);
}

function assertInTime(time: string, reach: Reach, window: HistoryWindow): void {
  const ms = timeToMs(time);
  if (ms > window.nowMs) throw refuse(IN_FUTURE);
  // The window may reach back beyond the branch; which of the two it was is told apart by what would help.
  if (ms < reach.startMs) throw refuse(reach.startMs > window.startMs ? BEFORE_BRANCH : BEFORE_WINDOW);
  if (ms < window.startMs) throw refuse(BEFORE_WINDOW);
}

function assertLsn(wanted: bigint, startLsn: bigint, headLsn: bigint): void {
  if (wanted > headLsn) throw refuse(`the requested LSN is in the future; last_lsn:"${formatLsn(headLsn)}"`);
  if (wanted < startLsn)
    throw refuse(`the requested LSN is before the history of the branch; first_lsn:"${formatLsn(startLsn)}"`);
}

/** A state that was replaced before the window began is outside of it, whatever is still on disk. */
async function assertInWindow(
  source: WalSource,
  range: { from: bigint; headLsn: bigint },
  window: HistoryWindow,
): Promise<void> {
  const { from, headLsn } = range;
  if (from >= headLsn) return;
  const { nextCommit } = await scanWal(source, { fromLsn: from, limitLsn: headLsn, untilAfter: '' });
  if (nextCommit && timeToMs(nextCommit.time) < window.startMs) throw refuse(BEFORE_WINDOW);
}

/** The timeline's own WAL, and how far it reaches. After a crash nobody vouches for its tail, so every record is checked. */
async function openHistory(parent: Parent): Promise<{ source: WalSource; headLsn: bigint }> {
  const { live, layout } = parent;
  const control = live ? await readControlWithRetry(layout.pgdata) : await readControlData(layout.pgdata);
  const source = walSource(walFilesOf(layout, factsOf(parent, control)));
  if (live) return { source, headLsn: await flushedLsn(live) };
  const verify = control.state !== 'shut down';
  return { source, headLsn: (await scanWal(source, { fromLsn: control.redoLsn, verify })).endLsn };
}

async function pointInTime(
  source: WalSource,
  wanted: { startLsn: bigint; headLsn: bigint; time: string },
): Promise<{ endLsn: bigint; lastCommit: WalCommit | undefined }> {
  const { startLsn, headLsn, time } = wanted;
  const size = BigInt(source.segmentSizeBytes);
  const oldest = segmentNumberOf(startLsn, source.segmentSizeBytes);
  const newest = segmentNumberOf(headLsn - 1n, source.segmentSizeBytes);
  // The last segment whose first commit is not later than the time; those without any commit count as the one before.
  let [low, high] = [oldest, newest];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    const first = await firstCommit(source, middle, headLsn);
    if (first === undefined || first.time <= time) low = middle;
    else high = middle - 1;
  }
  const from = BigInt(Math.max(oldest, low - NEIGHBOURS)) * size;
  const scan = await scanWal(source, { fromLsn: from, limitLsn: headLsn, untilAfter: time });
  if (scan.lastCommit) {
    // What follows the last commit changes nothing that anybody could see; at the head it is all part of the point.
    return scan.stopped === 'commit' ? { endLsn: scan.lastCommit.endLsn, lastCommit: scan.lastCommit } : scan;
  }
  if (scan.endLsn <= startLsn) return { endLsn: startLsn, lastCommit: undefined };
  return findPoint(source, scan.endLsn, oldest);
}

/** Undefined: there is none from this segment on. */
async function firstCommit(source: WalSource, segment: number, headLsn: bigint): Promise<WalCommit | undefined> {
  const fromLsn = BigInt(segment) * BigInt(source.segmentSizeBytes);
  return (await scanWal(source, { fromLsn, limitLsn: headLsn, untilAfter: '' })).nextCommit;
}
