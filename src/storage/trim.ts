/**
 * Trims a timeline's history to its window: what is left begins with the newest base that is not younger than the
 * window. Older bases go, and the WAL before it; so no point within the window is lost, and nothing else is kept.
 *
 * A replay on a base needs the WAL from its start on, so both go together, under the timeline's base lock. That the
 * history now begins later is written down first: a crash in between leaves files that the next run removes.
 * History files stay; they are small, and every descendant's recovery reads them.
 */
import { readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { parseLsn } from '../lib/lsn.ts';
import { segmentNumberOf } from '../postgres/wal.ts';
import { BASE_SERVES_BYTES, basesInUse } from './bases.ts';
import type { BaseContext } from './bases.ts';
import type { TimelineLayout } from './layout.ts';
import { readBases, readTimelineRecord, writeTimelineRecord } from './records.ts';
import type { Base, StoredTimeline } from './records.ts';

/** A whole segment, an unfinished one, or the note that a base leaves in the archive. */
const ARCHIVED = /^[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})(\.partial|\.[0-9A-F]{8}\.backup)?$/;

/** Two bases closer to each other than this share of their distance to the head are one too many. */
const SPACING = 4n;

/** The base that the trimmed history would begin with; undefined: all of it is needed. `startMs` is since the epoch. */
export async function newStart(
  layout: TimelineLayout,
  window: { startMs: number; pinned: readonly bigint[] },
): Promise<Base | undefined> {
  const fits = (base: Base) =>
    Date.parse(base.createdAt) <= window.startMs && window.pinned.every((lsn) => parseLsn(base.stopLsn) <= lsn);
  // A seed is where the history begins anyway.
  return (await readBases(layout)).findLast((base) => fits(base) && !base.seed);
}

/** The caller holds the bases exclusively. */
export async function trimTo(context: BaseContext, layout: TimelineLayout, start: Base): Promise<void> {
  const record = await readTimelineRecord(layout);
  if (!record) return;
  if (record.historyStart === null || parseLsn(record.historyStart) < parseLsn(start.stopLsn)) {
    await writeTimelineRecord(context.durable, layout, { ...record, historyStart: start.stopLsn });
  }
  await thinBases(context, layout, start);
}

/** Removes the bases before `start`, and of the later ones those that hardly shorten any replay. */
async function thinBases(context: BaseContext, layout: TimelineLayout, start: Base): Promise<void> {
  const bases = await readBases(layout);
  const inUse = await basesInUse(layout);
  const kept: Base[] = [];
  const head = bases.at(-1)!;
  bases.forEach((base, index) => {
    const before = kept.at(-1);
    const after = bases[index + 1];
    const needed = base.number === start.number || base === head || inUse.has(base.number);
    const isOlder = parseLsn(base.stopLsn) < parseLsn(start.stopLsn) || (base.seed && base.number !== start.number);
    if (needed || (!isOlder && (!before || !after || isUseful(before, base, after, head)))) kept.push(base);
  });
  const numbers = new Set(kept.map(({ number }) => number));
  for (const base of bases) if (!numbers.has(base.number)) await context.discard(base.directory);
}

function isUseful(before: Base, base: Base, after: Base, head: Base): boolean {
  const gapBytes = parseLsn(after.stopLsn) - parseLsn(before.stopLsn);
  const ageBytes = parseLsn(head.stopLsn) - parseLsn(base.stopLsn);
  return gapBytes > BASE_SERVES_BYTES && gapBytes > ageBytes / SPACING;
}

/** Removes what lies in the archive before the base that the history begins with. The caller holds the bases exclusively. */
export async function trimArchive(
  layout: TimelineLayout,
  record: StoredTimeline,
  segmentSizeBytes: number,
): Promise<number> {
  if (record.historyStart === null) return 0;
  const start = (await readBases(layout)).find((base) => base.stopLsn === record.historyStart);
  if (!start) return 0;
  const firstKept = segmentNumberOf(parseLsn(start.startLsn), segmentSizeBytes);
  let removed = 0;
  for (const name of await readdir(layout.wal)) {
    const match = ARCHIVED.exec(name);
    if (!match) continue;
    const perHigh = 2 ** 32 / segmentSizeBytes;
    if (parseInt(match[1]!, 16) * perHigh + parseInt(match[2]!, 16) >= firstKept) continue;
    await rm(path.join(layout.wal, name), { force: true });
    removed += 1;
  }
  return removed;
}
