/**
 * What the ways to materialise share: reading what a timeline says about itself, cloning a base or a template.
 */
import { chown, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../lib/child-process.ts';
import { AppError } from '../lib/errors.ts';
import type { KeyLock } from '../lib/key-lock.ts';
import { parseLsn } from '../lib/lsn.ts';
import { readControlData, restampSystemIdentifier } from '../postgres/control-data.ts';
import type { ControlData } from '../postgres/control-data.ts';
import type { BaseContext, ReplaySource } from './bases.ts';
import type { TimelineLayout } from './layout.ts';
import type { StoredTimeline } from './records.ts';
import type { FileOwner, LivePostgres } from './types.ts';

export interface MaterialiseContext extends BaseContext {
  baseLocks: KeyLock;
}

export interface Parent {
  record: StoredTimeline;
  layout: TimelineLayout;
  /** Undefined: it is at rest, and stays so until materialise returns. */
  live: LivePostgres | undefined;
}

export const outsideHistory = (): AppError =>
  new AppError('unprocessable', 'the requested point is outside of the history of the branch');

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
export async function adopt(
  dataDirectory: string,
  systemIdentifier: bigint,
  owner: FileOwner | undefined,
): Promise<string[]> {
  const written = await restampSystemIdentifier(dataDirectory, systemIdentifier);
  if (owner) await run('chown', ['-hR', `${owner.uid}:${owner.gid}`, dataDirectory]);
  return written;
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

export function factsOf(parent: Pick<Parent, 'record'>, control: ControlData) {
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
