/**
 * The history of timelines as a whole: points are found, seeds and bases made, what is too old is trimmed.
 */
import type { Lsn } from '../lib/lsn.ts';
import { parseLsn } from '../lib/lsn.ts';
import type { HistoryWindow, PointQuery, ResolvedPoint } from '../lib/point.ts';
import { findServer } from '../postgres/server.ts';
import { takeBaseIfDue } from './keep-history.ts';
import { timelineKey, timelineLayout } from './layout.ts';
import { outsideHistory, readControlWithRetry } from './sources.ts';
import { reachOf, resolvePoint as findPoint } from './points.ts';
import { readBases, readTimelineRecord } from './records.ts';
import { rewriteFragmented, type AtRest } from './rest-work.ts';
import { dependentsOf, makeSeed } from './seeds.ts';
import { findParent, ParentInBetween, withParent } from './state.ts';
import type { State } from './state.ts';
import { newStart, trimArchive, trimTo } from './trim.ts';
import type { TimelineRef } from './types.ts';

export function resolvePoint(
  state: State,
  timeline: TimelineRef,
  query: PointQuery,
  window: HistoryWindow,
): Promise<ResolvedPoint> {
  return withParent(state, timeline, undefined, (parent) =>
    state.context.baseLocks.shared(timelineKey(timeline), async () => {
      const reach = await reachOf(state.context, parent);
      if (!reach) throw outsideHistory();
      return findPoint(parent, reach, query, window);
    }),
  );
}

/** Of every timeline that would lose its beginning with this one. */
export async function seedDependents(state: State, timeline: TimelineRef): Promise<void> {
  const layout = timelineLayout(state.layout.root, timeline);
  for (const dependent of await dependentsOf(layout)) {
    try {
      await makeSeed(state.context, timelineLayout(state.layout.root, dependent), dependent);
    } catch (error) {
      const { timelineId } = dependent;
      state.options.logger.warn({ err: error, timeline: timelineId }, 'a branch loses the beginning of its history');
    }
  }
}

/** Skips a timeline that nobody answers for just now: somebody starts or stops it. */
async function ifSettled(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ParentInBetween)) throw error;
  }
}

export function keepHistory(state: State, timeline: TimelineRef, windowMs: number | undefined): Promise<void> {
  const key = timelineKey(timeline);
  const taken = async () => {
    const parent = await findParent(state, timeline);
    const options = { windowMs, nowMs: state.now().getTime() };
    return state.context.baseLocks.exclusive(key, () => takeBaseIfDue(state.context, parent, options));
  };
  return ifSettled(async () => {
    if ((await state.pool.status()).watermark !== 'ok') return;
    await state.locks.shared(key, taken);
    await rewriteNewestBase(state, timeline);
  });
}

/** A base of a fragmented timeline is as fragmented, and every child is cloned from it. */
async function rewriteNewestBase(state: State, timeline: TimelineRef): Promise<void> {
  if (state.pool.driver.mode !== 'reflink') return;
  const key = timelineKey(timeline);
  const layout = timelineLayout(state.layout.root, timeline);
  const base = (await readBases(layout)).at(-1);
  if (!base || state.rewritten.get(key) === base.number) return;
  const whileThere =
    <T>(work: () => Promise<T>) =>
    async (): Promise<T | undefined> =>
      (await readBases(layout)).some(({ number }) => number === base.number) ? work() : undefined;
  const locks = state.context.baseLocks;
  const atRest: AtRest = {
    shared: (work) => locks.shared(key, whileThere(work)),
    exclusive: (work) => locks.exclusive(key, whileThere(work)),
  };
  await rewriteFragmented(state.durable, state.pool, base.dataDirectory, atRest, new AbortController().signal);
  state.rewritten.set(key, base.number);
}

export function trimHistory(
  state: State,
  timeline: TimelineRef,
  window: { startMs: number; pinned: readonly Lsn[] },
): Promise<void> {
  const layout = timelineLayout(state.layout.root, timeline);
  const { context } = state;
  return ifSettled(async () => {
    const record = await readTimelineRecord(layout);
    if (!record || record.kind !== 'branch' || record.recovery !== 'none') return;
    const pinned = window.pinned.map(parseLsn);
    for (const dependent of await dependentsOf(layout)) {
      const lsn = parseLsn(dependent.origin!.lsn);
      const start = await newStart(layout, { ...window, pinned });
      if (!start || parseLsn(start.stopLsn) <= lsn) continue;
      // A full copy would cost more than what it lets go of.
      if (state.pool.driver.mode === 'copy') pinned.push(lsn);
      else await makeSeed(context, timelineLayout(state.layout.root, dependent), dependent);
    }
    const start = await newStart(layout, { ...window, pinned });
    const { walSegmentSizeBytes } = await readControlWithRetry(layout.pgdata);
    await context.baseLocks.exclusive(timelineKey(timeline), async () => {
      if (start) await trimTo(context, layout, start);
      const now = await readTimelineRecord(layout);
      if (now) await trimArchive(layout, now, walSegmentSizeBytes);
    });
  });
}

export async function restWork(state: State, timeline: TimelineRef): Promise<void> {
  const key = timelineKey(timeline);
  const layout = timelineLayout(state.layout.root, timeline);
  const abort = new AbortController();
  state.yielding.get(key)?.abort();
  state.yielding.set(key, abort);
  const whileAtRest =
    <T>(work: () => Promise<T>) =>
    async (): Promise<T | undefined> => {
      const record = await readTimelineRecord(layout);
      if (!record || record.recovery !== 'none' || abort.signal.aborted) return undefined;
      if (state.options.findLivePostgres(timeline) || (await findServer(layout.pgdata))) return undefined;
      return work();
    };
  const atRest: AtRest = {
    shared: (work) => state.locks.shared(key, whileAtRest(work)),
    exclusive: (work) => state.locks.exclusive(key, whileAtRest(work)),
  };
  try {
    if (state.pool.driver.mode === 'reflink') {
      await rewriteFragmented(state.durable, state.pool, layout.pgdata, atRest, abort.signal);
    }
    await atRest.shared(() => keepHistoryAtRest(state, timeline));
  } finally {
    if (state.yielding.get(key) === abort) state.yielding.delete(key);
  }
}

/** The caller holds the data directory shared, at rest. */
function keepHistoryAtRest(state: State, timeline: TimelineRef): Promise<boolean> {
  const options = { windowMs: undefined, nowMs: state.now().getTime() };
  return state.context.baseLocks.exclusive(timelineKey(timeline), async () =>
    takeBaseIfDue(state.context, await findParent(state, timeline), options),
  );
}
