/**
 * Takes the bases that make history cheap to reach and possible to trim.
 *
 * Replay runs at some 400 MB/s, so a base is worth it after 64 MB of WAL, but not every few seconds: on a running
 * timeline it costs a checkpoint. A timeline that writes little gets one when its last one is old for its window:
 * trimming lets go of whole bases only. Where a base is a full copy, it has to be worth that.
 */
import { parseLsn } from '../lib/lsn.ts';
import { readControlData } from '../postgres/control-data.ts';
import { takeHotBase, takeRestBase } from './bases.ts';
import type { BaseContext } from './bases.ts';
import { flushedLsn, readControlWithRetry } from './sources.ts';
import type { Parent } from './sources.ts';
import { ownerOf } from './owner.ts';
import { readBases } from './records.ts';

const MIB = 1024n * 1024n;
/** Whatever the clock says. */
const ALWAYS_BYTES = 512n * MIB;
/** Less than this is what an idle Postgres writes about itself. */
const WORTH_BYTES = 64n * 1024n;
/** With a checkpoint to pay for, and without. */
const RUNNING_BYTES = 64n * MIB;
const REST_BYTES = 16n * MIB;
const SPACING_MS = 60_000;
const WINDOW_SHARE = 4;

/**
 * Takes a base if one is due; `atRest` says that this is a good moment for it. The caller holds the bases exclusively
 * and keeps a timeline at rest from starting. True when one was taken.
 */
export async function takeBaseIfDue(
  context: BaseContext,
  parent: Parent,
  options: { windowMs: number | undefined; nowMs: number },
): Promise<boolean> {
  const { record, layout, live } = parent;
  if (record.kind !== 'branch' || record.recovery !== 'none') return false;
  const control = live ? await readControlWithRetry(layout.pgdata) : await readControlData(layout.pgdata);
  // After a crash the next start recovers first.
  if (!live && control.state !== 'shut down') return false;
  const headLsn = live ? await flushedLsn(live) : control.redoLsn;
  const since = await lastStart(context, parent, control.timelineId);
  const due = isDue(headLsn - since.lsn, options.nowMs - since.ms, {
    windowMs: options.windowMs,
    cheap: context.driver.mode !== 'copy',
    running: live !== undefined,
  });
  if (!due) return false;
  const owner = await ownerOf(layout.pgdata);
  if (live) await takeHotBase(context, layout, live, { major: record.pgVersion, owner });
  else await takeRestBase(context, layout, { control, stopLsn: control.redoLsn }, owner);
  return true;
}

export function isDue(
  writtenBytes: bigint,
  ageMs: number,
  where: { windowMs: number | undefined; cheap: boolean; running: boolean },
): boolean {
  const { windowMs, cheap, running } = where;
  const isOld = windowMs !== undefined && ageMs >= Math.max(windowMs / (cheap ? WINDOW_SHARE : 1), SPACING_MS);
  if (isOld && writtenBytes >= WORTH_BYTES) return true;
  if (writtenBytes >= ALWAYS_BYTES) return true;
  if (!cheap) return false;
  if (!running) return writtenBytes >= REST_BYTES;
  return writtenBytes >= RUNNING_BYTES && ageMs >= SPACING_MS;
}

/** Where a replay would begin today, and since when. */
async function lastStart(
  context: BaseContext,
  { record, layout }: Parent,
  timelineId: number,
): Promise<{ lsn: bigint; ms: number }> {
  const newest = (await readBases(layout)).findLast((base) => !base.seed && base.timelineId === timelineId);
  if (newest) return { lsn: parseLsn(newest.startLsn), ms: Date.parse(newest.createdAt) };
  const ms = Date.parse(record.createdAt);
  if (record.origin) return { lsn: parseLsn(record.origin.lsn), ms };
  const template = record.template === null ? undefined : await context.templates.find(record.template);
  return { lsn: template ? parseLsn(template.redoLsn) : 0n, ms };
}
