/**
 * What the parts of storage share: the pool, the locks, and how one comes by the parent of a timeline.
 *
 * Locks, per timeline, in the order parent before child: a data directory is held shared by those who clone it and
 * exclusively by those who start, stop, rewrite or remove it; its bases, and the WAL behind them, are held shared by
 * those who read them and exclusively by those who make or remove some.
 */
import { randomBytes } from 'node:crypto';
import { rename } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Home } from '../home.ts';
import type { Durable } from '../lib/durable.ts';
import { AppError } from '../lib/errors.ts';
import type { KeyLock } from '../lib/key-lock.ts';
import type { Logger } from '../lib/log.ts';
import { findServer } from '../postgres/server.ts';
import type { Templates } from '../postgres/template.ts';
import type { Installations } from '../postgres/types.ts';
import { timelineKey, timelineLayout } from './layout.ts';
import type { PoolLayout } from './layout.ts';
import type { Parent } from './sources.ts';
import type { Pool } from './pool.ts';
import { readTimelineRecord } from './records.ts';
import type { StoredTimeline } from './records.ts';
import { isTorn, makeWhole } from './replay-again.ts';
import type { ReplayContext } from './replay-again.ts';
import type { FindLivePostgres, TimelineRef } from './types.ts';

export interface StorageOptions {
  home: Pick<Home, 'pool' | 'secrets'>;
  installations: Installations;
  logger: Logger;
  findLivePostgres: FindLivePostgres;
  /** Default: the real one. */
  durable?: Durable;
  /** Default: the system's. */
  now?: () => Date;
  /** Default: the machine's. */
  bootId?: string;
  /** How long a child waits for a parent that starts, stops, or is in nobody's hands. Default: two minutes. */
  parentWithinMs?: number;
}

/** Longer than most starts: whoever gives up here has to queue again. */
const PARENT_WITHIN_MS = 120_000;
const PARENT_POLL_STEP_MS = 100;

export interface State {
  options: StorageOptions;
  layout: PoolLayout;
  pool: Pool;
  templates: Templates;
  durable: Durable;
  now: () => Date;
  context: ReplayContext;
  /** Data directories. */
  locks: KeyLock;
  /** Work at rest that gives way to whoever wants the data directory. */
  yielding: Map<string, AbortController>;
  /** By timeline: the newest base whose fragments have been looked after. */
  rewritten: Map<string, number>;
  /** Created right now: no garbage, though nothing vouches for them yet. */
  inProgress: Set<string>;
}

export function exclusively<T>(state: State, timeline: TimelineRef, work: () => Promise<T>): Promise<T> {
  const key = timelineKey(timeline);
  state.yielding.get(key)?.abort();
  return state.locks.exclusive(key, work);
}

const parentBusy = () => new AppError('unavailable', 'the parent branch is busy; try again');

/** The parent's Postgres runs and nobody answers for it: it can neither be cloned as at rest nor be asked. */
export class ParentInBetween extends Error {}

/**
 * Works with a timeline as a parent, at rest or live, and holds its data directory shared meanwhile.
 * Waits in the parent's queue, so that its starts and stops get their turns between its children.
 */
export async function withParent<T>(
  state: State,
  parentRef: TimelineRef,
  signal: AbortSignal | undefined,
  work: (parent: Parent) => Promise<T>,
): Promise<T> {
  const late = AbortSignal.timeout(state.options.parentWithinMs ?? PARENT_WITHIN_MS);
  const waiting = signal ? AbortSignal.any([signal, late]) : late;
  await mend(state, parentRef);
  for (;;) {
    try {
      const locked = async () => work(await findParent(state, parentRef));
      return await state.locks.shared(timelineKey(parentRef), locked, waiting);
    } catch (error) {
      if (waiting.aborted && error === waiting.reason) throw signal?.aborted ? error : parentBusy();
      if (!(error instanceof ParentInBetween)) throw error;
    }
    // Not under the lock: it may be a start that puts an end to this.
    await sleep(PARENT_POLL_STEP_MS);
  }
}

/** A parent that a power cut tore must not be cloned as it is. */
async function mend(state: State, timeline: TimelineRef): Promise<void> {
  const layout = timelineLayout(state.layout.root, timeline);
  const torn = async () => {
    const record = await readTimelineRecord(layout);
    return record && (await isTorn(state.context, layout, record)) ? record : undefined;
  };
  if (!(await torn())) return;
  await exclusively(state, timeline, async () => {
    const record = await torn();
    if (record) await makeWhole(state.context, layout, record);
  });
}

export async function findParent(state: State, timeline: TimelineRef): Promise<Parent> {
  const layout = timelineLayout(state.layout.root, timeline);
  const record = await readTimelineRecord(layout);
  if (!record) throw new AppError('not_found', 'the parent branch has no data');
  const live = state.options.findLivePostgres(timeline);
  // Left over from a crash of Ballast, or about to end after it was killed.
  if (!live && (await findServer(layout.pgdata))) throw new ParentInBetween();
  return { record, layout, live };
}

export async function discardTo(layout: PoolLayout, pool: Pool, durable: Durable, directory: string): Promise<void> {
  const trashed = path.join(layout.trash, `${path.basename(directory)}-${randomBytes(6).toString('hex')}`);
  try {
    await rename(directory, trashed);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  await durable.directory('timeline-directory', path.dirname(directory));
  await pool.driver.remove(trashed);
}

export async function recordOf(state: State, timeline: TimelineRef): Promise<StoredTimeline | undefined> {
  try {
    return await readTimelineRecord(timelineLayout(state.layout.root, timeline));
  } catch (error) {
    if (error instanceof AppError) return undefined;
    throw error;
  }
}
