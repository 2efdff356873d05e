/**
 * The engine's storage half: timelines from their creation to their removal (see types.ts for the promises).
 *
 * Order of every creation: directories, clone, syncs, timeline.json last. A crash before that leaves a directory that
 * nothing vouches for; the next try, or the clean-up, throws it away. Deletion is the reverse: one rename into the
 * trash makes the timeline gone, the rest is sweeping.
 *
 * Locks, per timeline, in the order parent before child: a data directory is held shared by those who clone it and
 * exclusively by those who start, stop, rewrite or remove it.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { chmod, chown, mkdir, readdir, readFile, rename, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Home } from '../home.ts';
import { readBootId } from '../lib/boot-id.ts';
import { durable as realDurable } from '../lib/durable.ts';
import type { Durable } from '../lib/durable.ts';
import { AppError } from '../lib/errors.ts';
import { KeyLock } from '../lib/key-lock.ts';
import type { Logger } from '../lib/log.ts';
import { newSystemIdentifier } from '../postgres/control-data.ts';
import { findServer } from '../postgres/server.ts';
import { createTemplates } from '../postgres/template.ts';
import type { Templates } from '../postgres/template.ts';
import type { Installations } from '../postgres/types.ts';
import { poolLayout, RESERVED_NAMES, timelineKey, timelineLayout } from './layout.ts';
import type { PoolLayout, TimelineLayout } from './layout.ts';
import { cloneTemplate, materialise, readControlWithRetry } from './materialise.ts';
import type { Parent } from './materialise.ts';
import { isOutOfSpace, openPool, poolFull } from './pool.ts';
import type { Pool } from './pool.ts';
import { createTimelineRecord, readTimelineRecord, writeTimelineRecord } from './records.ts';
import type { StoredTimeline } from './records.ts';
import { beforeReplay, forgetReplay, isTorn, makeWhole } from './replay-again.ts';
import type { ReplayContext } from './replay-again.ts';
import { trimArchive } from './trim.ts';
import { replaceStaleBase, rewriteFragmented, type AtRest } from './rest-work.ts';
import { measureSize } from './size.ts';
import { syncRecovered } from './recovered.ts';
import type {
  ChildTimelineSpec,
  FileOwner,
  FindLivePostgres,
  RootTimelineSpec,
  Storage,
  TimelineRecord,
  TimelineRef,
} from './types.ts';

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

interface State {
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
  /** Created right now: no garbage, though nothing vouches for them yet. */
  inProgress: Set<string>;
}

export async function createStorage(options: StorageOptions): Promise<Storage> {
  const state = await open(options);
  const layoutOf = (timeline: TimelineRef) => timelineLayout(state.layout.root, timeline);
  return {
    createRootTimeline: (spec) => spaceAware(() => createRoot(state, spec)),
    createChildTimeline: (spec, signal) => spaceAware(() => createChild(state, spec, signal)),
    deleteTimeline: (timeline) => deleteTimeline(state, timeline),
    readTimeline: (timeline) => readTimelineRecord(layoutOf(timeline)),
    dataDirectory: (timeline) => layoutOf(timeline).pgdata,
    walDirectory: (timeline) => layoutOf(timeline).wal,
    withDataDirectory: (timeline, work) =>
      exclusively(state, timeline, async () => {
        const record = await recordOf(state, timeline);
        if (record) await beforeReplay(state.context, layoutOf(timeline), record);
        return work();
      }),
    prepareTemplate: async (pgVersion) => void (await state.templates.get(pgVersion)),
    finishRecovery: (timeline) => finishRecovery(state, timeline),
    afterSuspend: (timeline) => restWork(state, timeline),
    createStandbyTimeline: async () => {
      throw new AppError('not_implemented', 'standbys');
    },
    resolvePoint: async () => {
      throw new AppError('not_implemented', 'points in the past');
    },
    keepHistory: async () => undefined,
    trimHistory: (timeline, { startMs }) => trimHistory(state, timeline, startMs),
    size: (timeline) => measureSize(layoutOf(timeline)),
    poolStatus: () => state.pool.status(),
    assertRoomForTimeline: () => state.pool.assertRoom(),
    listTimelines: () => listTimelines(state),
    removeGarbage: (paths) => removeGarbage(state, paths),
  };
}

async function open(options: StorageOptions): Promise<State> {
  const layout = poolLayout(options.home.pool);
  const pool = await openPool(layout);
  const durable = options.durable ?? realDurable;
  const now = options.now ?? (() => new Date());
  const templates = createTemplates({
    directory: layout.templates,
    installations: options.installations,
    secret: (await readFile(path.join(options.home.secrets, 'cloud-admin'), 'utf8')).trim(),
    durable,
    logger: options.logger,
    makeDataDirectory: (directory) => pool.driver.makeDirectory(directory),
    removeDirectory: (directory) => pool.driver.remove(directory),
  });
  const discard = (directory: string) => discardTo(layout, pool, durable, directory);
  const bootId = options.bootId ?? (await readBootId());
  const parts = { driver: pool.driver, durable, templates, now, discard, baseLocks: new KeyLock() };
  const context = { ...parts, pool: layout.root, bootId };
  const shared = { options, layout, pool, templates, durable, now, context };
  return { ...shared, locks: new KeyLock(), yielding: new Map(), inProgress: new Set() };
}

async function spaceAware<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw isOutOfSpace(error) ? poolFull(error) : error;
  }
}

function exclusively<T>(state: State, timeline: TimelineRef, work: () => Promise<T>): Promise<T> {
  const key = timelineKey(timeline);
  state.yielding.get(key)?.abort();
  return state.locks.exclusive(key, work);
}

/** Creates once: an existing timeline is the answer, a leftover is thrown away. */
function creating(
  state: State,
  spec: TimelineRef & { owner: FileOwner | undefined },
  create: (layout: TimelineLayout) => Promise<StoredTimeline>,
): Promise<TimelineRecord> {
  const layout = timelineLayout(state.layout.root, spec);
  return exclusively(state, spec, async () => {
    const existing = await readTimelineRecord(layout);
    if (existing) return existing;
    await state.pool.assertRoom();
    state.inProgress.add(layout.root);
    try {
      await state.context.discard(layout.root);
      await makeDirectories(layout, spec.owner);
      const record = await create(layout);
      await createTimelineRecord(state.durable, layout, record);
      const names = [layout.root, layout.project, state.layout.root];
      await state.pool.driver.syncNames(state.durable, 'timeline-directory', names);
      return record;
    } catch (error) {
      await state.context
        .discard(layout.root)
        .catch((again: unknown) => state.options.logger.warn({ err: again }, 'leftover'));
      throw error;
    } finally {
      state.inProgress.delete(layout.root);
    }
  });
}

function createRoot(state: State, spec: RootTimelineSpec): Promise<TimelineRecord> {
  return creating(state, spec, async (layout) => {
    const template = await state.templates.get(spec.pgVersion);
    const systemIdentifier = newSystemIdentifier(state.now().getTime(), randomInt(2 ** 32));
    await cloneTemplate(state.context, template, layout, { systemIdentifier, owner: spec.owner });
    return {
      formatVersion: 1,
      kind: 'branch',
      projectId: spec.projectId,
      timelineId: spec.timelineId,
      pgVersion: spec.pgVersion,
      build: template.build,
      systemIdentifier: String(systemIdentifier),
      parentTimelineId: null,
      branchLsn: null,
      branchTimestamp: null,
      recovery: 'none',
      suspectSubscriptions: false,
      createdAt: state.now().toISOString(),
      template: template.name,
      replaySource: null,
    };
  });
}

/** Waits in the parent's queue, so that its starts and stops get their turns between its children. */
async function createChild(
  state: State,
  spec: ChildTimelineSpec,
  signal: AbortSignal | undefined,
): Promise<TimelineRecord> {
  const parentRef = { projectId: spec.projectId, timelineId: spec.parentTimelineId };
  const late = AbortSignal.timeout(state.options.parentWithinMs ?? PARENT_WITHIN_MS);
  const waiting = signal ? AbortSignal.any([signal, late]) : late;
  await mend(state, parentRef);
  for (;;) {
    try {
      return await createChildNow(state, spec, parentRef, waiting);
    } catch (error) {
      if (waiting.aborted && error === waiting.reason) throw signal?.aborted ? error : parentBusy();
      if (!(error instanceof ParentInBetween)) throw error;
    }
    // Not under the lock: it may be a start that puts an end to this.
    await sleep(PARENT_POLL_STEP_MS);
  }
}

function createChildNow(
  state: State,
  spec: ChildTimelineSpec,
  parentRef: TimelineRef,
  waiting: AbortSignal,
): Promise<TimelineRecord> {
  const key = timelineKey(parentRef);
  const work = () =>
    creating(state, spec, async (layout) => {
      const parent = await findParent(state, parentRef);
      const made = await materialise(state.context, parent, layout, spec);
      return {
        formatVersion: 1,
        kind: spec.kind ?? 'branch',
        projectId: spec.projectId,
        timelineId: spec.timelineId,
        pgVersion: parent.record.pgVersion,
        build: parent.record.build,
        systemIdentifier: parent.record.systemIdentifier,
        parentTimelineId: spec.parentTimelineId,
        ...made,
        createdAt: state.now().toISOString(),
        template: null,
      };
    });
  return state.locks.shared(key, work, waiting);
}

const parentBusy = () => new AppError('unavailable', 'the parent branch is busy; try again');

/** The parent's Postgres runs and nobody answers for it: it can neither be cloned as at rest nor be asked. */
class ParentInBetween extends Error {}

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

async function findParent(state: State, timeline: TimelineRef): Promise<Parent> {
  const layout = timelineLayout(state.layout.root, timeline);
  const record = await readTimelineRecord(layout);
  if (!record) throw new AppError('not_found', 'the parent branch has no data');
  const live = state.options.findLivePostgres(timeline);
  // Left over from a crash of Ballast, or about to end after it was killed.
  if (!live && (await findServer(layout.pgdata))) throw new ParentInBetween();
  return { record, layout, live };
}

/** As root, directories above a data directory are root's; the project's group may pass. See layout.ts. */
async function makeDirectories(layout: TimelineLayout, owner: FileOwner | undefined): Promise<void> {
  for (const directory of [layout.project, layout.root]) {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    if (owner) {
      await chown(directory, 0, owner.gid);
      await chmod(directory, 0o710);
    }
  }
  await mkdir(layout.bases, { mode: 0o700 });
  await mkdir(layout.wal, { mode: 0o700 });
  if (owner) {
    // Bases are cloned by processes of the owner, who may read, not change them.
    await chown(layout.bases, 0, owner.gid);
    await chmod(layout.bases, 0o710);
    await chown(layout.wal, owner.uid, owner.gid);
  }
}

function deleteTimeline(state: State, timeline: TimelineRef): Promise<void> {
  const layout = timelineLayout(state.layout.root, timeline);
  return exclusively(state, timeline, async () => {
    await state.context.discard(layout.root);
    // The last branch takes the project's directory along.
    await rmdir(layout.project).catch((error: NodeJS.ErrnoException) => {
      if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(error.code ?? '')) throw error;
    });
  });
}

async function discardTo(layout: PoolLayout, pool: Pool, durable: Durable, directory: string): Promise<void> {
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

/** Not under the data directory's lock: the supervisor calls it while it holds that. */
async function finishRecovery(state: State, timeline: TimelineRef): Promise<TimelineRecord> {
  const layout = timelineLayout(state.layout.root, timeline);
  const record = await readTimelineRecord(layout);
  if (!record) throw new AppError('not_found', 'the branch has no data');
  if (record.recovery === 'none') return record;
  if (record.recovery === 'replay') await syncRecovered(state.durable, layout, Date.now());
  const finished: StoredTimeline = { ...record, recovery: 'none', suspectSubscriptions: false, replaySource: null };
  await writeTimelineRecord(state.durable, layout, finished);
  await forgetReplay(layout);
  return finished;
}

async function restWork(state: State, timeline: TimelineRef): Promise<void> {
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
    await atRest.shared(() => state.context.baseLocks.exclusive(key, () => replaceStaleBase(state.context, layout)));
  } finally {
    if (state.yielding.get(key) === abort) state.yielding.delete(key);
  }
}

async function trimHistory(state: State, timeline: TimelineRef, olderThanMs: number): Promise<void> {
  const layout = timelineLayout(state.layout.root, timeline);
  if (!(await readTimelineRecord(layout))) return;
  const { walSegmentSizeBytes } = await readControlWithRetry(layout.pgdata);
  await trimArchive(layout.wal, { olderThanMs, segmentSizeBytes: walSegmentSizeBytes });
}

async function listTimelines(state: State): Promise<{ timelines: TimelineRecord[]; garbage: string[] }> {
  const timelines: TimelineRecord[] = [];
  const garbage = (await readdir(state.layout.trash)).map((name) => path.join(state.layout.trash, name));
  for (const projectId of await directoriesIn(state.layout.root)) {
    if (RESERVED_NAMES.has(projectId)) continue;
    for (const timelineId of await directoriesIn(path.join(state.layout.root, projectId))) {
      const root = path.join(state.layout.root, projectId, timelineId);
      const record = await recordOf(state, { projectId, timelineId });
      if (record) timelines.push(record);
      else if (!state.inProgress.has(root)) garbage.push(root);
    }
  }
  for (const name of await directoriesIn(state.layout.templates)) {
    // Unfinished templates carry a dot; one that is being made is younger than this process can have left behind.
    if (name.startsWith('.') && !state.templates.making(name)) garbage.push(path.join(state.layout.templates, name));
  }
  return { timelines, garbage };
}

async function recordOf(state: State, timeline: TimelineRef): Promise<StoredTimeline | undefined> {
  try {
    return await readTimelineRecord(timelineLayout(state.layout.root, timeline));
  } catch (error) {
    if (error instanceof AppError) return undefined;
    throw error;
  }
}

async function directoriesIn(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
}

/** Only what is inside the pool and still not vouched for. */
async function removeGarbage(state: State, paths: readonly string[]): Promise<void> {
  const { garbage } = await listTimelines(state);
  for (const item of garbage.filter((found) => paths.includes(found))) {
    if (path.dirname(item) === state.layout.trash) await state.pool.driver.remove(item);
    else await state.context.discard(item);
  }
}
