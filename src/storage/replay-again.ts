/**
 * A replay that a power cut interrupted is done again from the start.
 *
 * The first start of a `replay` clone runs with fsync off: until finishRecovery nothing of it is durable, and a power
 * cut may keep any part of what was written and lose any other. So the start is marked before it happens, with the
 * machine's boot: a mark of another boot on a timeline that is still to recover means that its data directory cannot
 * be believed. It is then made anew from the same base and the copies of the WAL that were staged.
 * (Killed processes are another matter: what they wrote is in the page cache, and Postgres goes on from there.)
 *
 *   <timeline>/replaying-<boot id>   the mark; empty, so that its name is all there is to make durable
 *   <timeline>/pgdata.building       under construction, worth nothing
 *   <timeline>/pgdata.rebuilt        complete and durable, about to become pgdata
 */
import { lstat, readdir, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { AppError } from '../lib/errors.ts';
import type { ReplaySource } from './bases.ts';
import { STAGED_WAL } from './clone-rules.ts';
import { timelineLayout } from './layout.ts';
import type { TimelineLayout } from './layout.ts';
import { adoptSource, cloneSource, writeSignal } from './sources.ts';
import type { MaterialiseContext } from './sources.ts';
import { ownerOf } from './owner.ts';
import { readBases } from './records.ts';
import type { StoredTimeline } from './records.ts';
import { copyWal, keepStagedWal } from './wal-files.ts';

export interface ReplayContext extends MaterialiseContext {
  pool: string;
  /** Changes when the machine starts; a power cut cannot leave it the same. */
  bootId: string;
}

const MARK = 'replaying-';

/** True when the data directory may have been torn by a power cut. */
export async function isTorn(context: ReplayContext, layout: TimelineLayout, record: StoredTimeline): Promise<boolean> {
  if (record.recovery !== 'replay') return false;
  const marks = await marksOf(layout);
  return marks.length > 0 && !marks.includes(MARK + context.bootId);
}

/** Before a start of a timeline that is to replay: makes it whole, and marks that it may be torn from now on. */
export async function beforeReplay(
  context: ReplayContext,
  layout: TimelineLayout,
  record: StoredTimeline,
): Promise<void> {
  if (record.recovery !== 'replay') return;
  if (await isTorn(context, layout, record)) await makeWhole(context, layout, record);
  const mark = path.join(layout.root, MARK + context.bootId);
  if (await exists(mark)) return;
  await writeFile(mark, '', { mode: 0o600 });
  await context.driver.syncNames(context.durable, 'timeline-directory', [layout.root]);
}

/** After recovery has been made durable: none of this is needed any more. */
export async function forgetReplay(layout: TimelineLayout): Promise<void> {
  await rm(path.join(layout.pgdata, STAGED_WAL), { recursive: true, force: true });
  for (const mark of await marksOf(layout)) await rm(path.join(layout.root, mark), { force: true });
}

export async function makeWhole(context: ReplayContext, layout: TimelineLayout, record: StoredTimeline): Promise<void> {
  const building = `${layout.pgdata}.building`;
  const rebuilt = `${layout.pgdata}.rebuilt`;
  if (!(await exists(rebuilt))) {
    await context.discard(building);
    await rebuild(context, layout, record, building);
    await rename(building, rebuilt);
  }
  await context.discard(layout.pgdata);
  await rename(rebuilt, layout.pgdata);
  await context.driver.syncNames(context.durable, 'timeline-directory', [layout.root]);
  for (const mark of await marksOf(layout)) await rm(path.join(layout.root, mark), { force: true });
}

async function rebuild(
  context: ReplayContext,
  layout: TimelineLayout,
  record: StoredTimeline,
  target: string,
): Promise<void> {
  const source = await findSource(context, record);
  const owner = await ownerOf(layout.pgdata);
  await cloneSource(context, source, target, owner);
  const stamped = await adoptSource(source, target, BigInt(record.systemIdentifier), owner);
  await copyWal(context.driver, path.join(layout.pgdata, STAGED_WAL), path.join(target, 'pg_wal'));
  await keepStagedWal(context.driver, target, owner);
  await writeSignal(target, owner);
  await context.driver.sync(context.durable, target, stamped);
}

async function findSource(
  context: ReplayContext,
  record: StoredTimeline,
): Promise<Pick<ReplaySource, 'dataDirectory' | 'kind' | 'ref'>> {
  const ref = record.replaySource;
  if (ref?.kind === 'template') {
    const template = await context.templates.find(ref.name);
    if (template) return { dataDirectory: template.dataDirectory, kind: 'rest', ref };
  }
  if (ref?.kind === 'base') {
    const layout = timelineLayout(context.pool, { projectId: record.projectId, timelineId: ref.timelineId });
    const base = (await readBases(layout)).find(({ number }) => number === ref.number);
    if (base) return { dataDirectory: base.dataDirectory, kind: base.kind, ref };
  }
  if (ref?.kind === 'snapshot') {
    const layout = timelineLayout(context.pool, { projectId: record.projectId, timelineId: ref.timelineId });
    if (await exists(layout.record)) return { dataDirectory: layout.pgdata, kind: 'hot', ref };
  }
  throw new AppError('internal', 'the branch was interrupted by a power failure and its source is gone', {
    internal: `replay source ${JSON.stringify(ref)} of ${record.timelineId}`,
  });
}

async function marksOf(layout: TimelineLayout): Promise<string[]> {
  return (await readdir(layout.root)).filter((name) => name.startsWith(MARK));
}

async function exists(file: string): Promise<boolean> {
  return lstat(file).then(
    () => true,
    () => false,
  );
}
