/**
 * Seeds: the first state of a timeline as a base, so that its history can be reached from its beginning on.
 *
 * The clone that a timeline begins with is used up by its first start. What it was is still told by its origin: a base
 * of that timeline and its WAL up to the branch point. So a seed is made when somebody asks for a point before the
 * timeline's own oldest base, or when the origin is about to forget it. Most timelines never need one.
 */
import path from 'node:path';
import { formatLsn } from '../lib/lsn.ts';
import { readControlData } from '../postgres/control-data.ts';
import { finishBase, nextBase } from './bases.ts';
import { timelineKey } from './layout.ts';
import type { TimelineLayout } from './layout.ts';
import { fill } from './materialise.ts';
import type { MaterialiseContext, Parent } from './materialise.ts';
import { readBases, readProjectRecords } from './records.ts';
import type { StoredTimeline } from './records.ts';
import type { FileOwner } from './types.ts';

/** True when the timeline's first states can only be reached with the help of its origin. */
export async function lacksSeed(layout: TimelineLayout, record: StoredTimeline): Promise<boolean> {
  if (record.origin === null || record.historyStart !== null) return false;
  return !(await readBases(layout)).some((base) => base.seed);
}

/** The timelines of the same project whose first states are told by this one, and by nothing of their own. */
export async function dependentsOf(layout: TimelineLayout): Promise<StoredTimeline[]> {
  const timelineId = path.basename(layout.root);
  const found: StoredTimeline[] = [];
  for (const record of await readProjectRecords(layout)) {
    // Snapshots and standbys have no history: what is asked of them is all there.
    if (record.kind !== 'branch' || record.origin?.timelineId !== timelineId) continue;
    if (await lacksSeed(siblingLayout(layout, record.timelineId), record)) found.push(record);
  }
  return found;
}

export function siblingLayout(layout: TimelineLayout, timelineId: string): TimelineLayout {
  const root = path.join(layout.project, timelineId);
  const move = (place: string) => path.join(root, path.basename(place));
  return {
    project: layout.project,
    root,
    record: move(layout.record),
    pgdata: move(layout.pgdata),
    bases: move(layout.bases),
    wal: move(layout.wal),
  };
}

/**
 * Makes the seed if there is none. The caller holds the origin's data directory shared, or otherwise keeps it as it is.
 */
export async function makeSeed(
  context: MaterialiseContext,
  origin: Parent,
  layout: TimelineLayout,
  record: StoredTimeline,
  owner: FileOwner | undefined,
): Promise<void> {
  await context.baseLocks.exclusive(timelineKey(record), async () => {
    if (!(await lacksSeed(layout, record))) return;
    const { number, directory, dataDirectory } = await nextBase(layout);
    const point = { kind: 'lsn', lsn: record.origin!.lsn } as const;
    const filled = await fill(context, origin, { pgdata: dataDirectory }, { point, owner, keepStaged: false });
    await context.driver.sync(context.durable, dataDirectory, filled.written);
    const { timelineId } = await readControlData(dataDirectory);
    const { startLsn, labelled, recoveryTimelineId } = filled;
    await finishBase(context, layout, directory, {
      number,
      kind: labelled ? 'hot' : 'rest',
      timelineId,
      startLsn: startLsn === undefined ? record.origin!.lsn : formatLsn(startLsn),
      stopLsn: record.origin!.lsn,
      createdAt: record.createdAt,
      seed: { followTimelineId: recoveryTimelineId },
    });
  });
}
