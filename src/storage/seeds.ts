/**
 * Seeds: the first state of a timeline as a base of its own, so that its history can be reached from its beginning on.
 *
 * The clone that a timeline begins with is used up by its first start. What it was is still told by its origin: a base
 * of that timeline and its WAL up to the branch point. Only when the origin is about to forget them, or to go, a seed
 * is made of them. Most timelines never need one.
 */
import path from 'node:path';
import { formatLsn } from '../lib/lsn.ts';
import { readControlData } from '../postgres/control-data.ts';
import { finishBase, nextBase } from './bases.ts';
import { siblingLayout, timelineKey } from './layout.ts';
import type { TimelineLayout } from './layout.ts';
import { fill } from './materialise.ts';
import { outsideHistory } from './sources.ts';
import type { MaterialiseContext } from './sources.ts';
import { ownerOf } from './owner.ts';
import { readBases, readProjectRecords, readTimelineRecord } from './records.ts';
import type { StoredTimeline } from './records.ts';

/** True when the timeline's first states can only be reached with the help of its origin. */
async function lacksSeed(layout: TimelineLayout, record: StoredTimeline): Promise<boolean> {
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

/** Makes the seed if there is none. */
export async function makeSeed(
  context: MaterialiseContext,
  layout: TimelineLayout,
  record: StoredTimeline,
): Promise<void> {
  const its = siblingLayout(layout, record.origin!.timelineId);
  const origin = await readTimelineRecord(its);
  if (!origin) throw outsideHistory();
  const parent = { record: origin, layout: its, live: undefined };
  const owner = await ownerOf(layout.pgdata);
  await context.baseLocks.exclusive(timelineKey(record), async () => {
    if (!(await lacksSeed(layout, record))) return;
    const { number, directory, dataDirectory } = await nextBase(layout);
    const point = { kind: 'lsn', lsn: record.origin!.lsn } as const;
    const filled = await fill(context, parent, { pgdata: dataDirectory }, { point, owner, keepStaged: false });
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
