/**
 * The engine's storage half: timelines from their creation to their removal (see types.ts for the promises).
 *
 * create.ts makes timelines, history.ts keeps what they can go back to, state.ts holds the locks. Deletion is one
 * rename into the trash, which makes the timeline gone; the rest is sweeping.
 */
import { readdir, readFile, rm, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { readBootId } from '../lib/boot-id.ts';
import { durable as realDurable, writeFileDurably } from '../lib/durable.ts';
import { AppError } from '../lib/errors.ts';
import { KeyLock } from '../lib/key-lock.ts';
import { createTemplates } from '../postgres/template.ts';
import { createChild, createRoot, createStandby } from './create.ts';
import { keepHistory, resolvePoint, restWork, seedDependents, trimHistory } from './history.ts';
import {
  DESCRIPTION_NAME,
  poolLayout,
  projectDescriptionFile,
  RESERVED_NAMES,
  timelineKey,
  timelineLayout,
} from './layout.ts';
import { isOutOfSpace, openPool, poolFull } from './pool.ts';
import { readTimelineRecord, writeTimelineRecord } from './records.ts';
import type { StoredTimeline } from './records.ts';
import { syncRecovered } from './recovered.ts';
import { beforeReplay, forgetReplay } from './replay-again.ts';
import { measureOwnBytes, measureSize } from './size.ts';
import { discardTo, exclusively, recordOf } from './state.ts';
import type { State, StorageOptions } from './state.ts';
import type { Storage, TimelineRecord, TimelineRef } from './types.ts';

export type { StorageOptions } from './state.ts';

export async function createStorage(options: StorageOptions): Promise<Storage> {
  const state = await open(options);
  const layoutOf = (timeline: TimelineRef) => timelineLayout(state.layout.root, timeline);
  return {
    createRootTimeline: (spec) => spaceAware(() => createRoot(state, spec)),
    createChildTimeline: (spec, signal) => spaceAware(() => createChild(state, spec, signal)),
    deleteTimeline: (timeline, how) => deleteTimeline(state, timeline, how?.withDependents === true),
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
    createStandbyTimeline: (spec, signal) => spaceAware(() => createStandby(state, spec, signal)),
    resolvePoint: (timeline, query, window) => resolvePoint(state, timeline, query, window),
    keepHistory: (timeline, { windowMs }) => keepHistory(state, timeline, windowMs),
    trimHistory: (timeline, window) => trimHistory(state, timeline, window),
    describeProject: (projectId, text) => describeProject(state, projectId, text),
    projectDescription: (projectId) =>
      readFile(projectDescriptionFile(state.layout.root, projectId), 'utf8').catch(() => undefined),
    size: (timeline) => measureSize(layoutOf(timeline)),
    ownBytes: (timeline) => measureOwnBytes(layoutOf(timeline).root),
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
  return { ...shared, locks: new KeyLock(), yielding: new Map(), rewritten: new Map(), inProgress: new Set() };
}

async function spaceAware<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw isOutOfSpace(error) ? poolFull(error) : error;
  }
}

function deleteTimeline(state: State, timeline: TimelineRef, withDependents: boolean): Promise<void> {
  const layout = timelineLayout(state.layout.root, timeline);
  return exclusively(state, timeline, async () => {
    if (!withDependents && (await readTimelineRecord(layout))) await seedDependents(state, timeline);
    await state.context.discard(layout.root);
    state.rewritten.delete(timelineKey(timeline));
    await removeEmptyProject(layout.project);
  });
}

/** The last timeline takes the project's directory along. True when it is gone. */
async function removeEmptyProject(project: string): Promise<boolean> {
  try {
    if ((await directoriesIn(project)).length > 0) return false;
    for (const name of await readdir(project)) {
      if (name.startsWith(DESCRIPTION_NAME)) await rm(path.join(project, name), { force: true });
    }
    await rmdir(project);
    return true;
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return true;
    if (!['ENOTEMPTY', 'EEXIST'].includes(code)) throw error;
    return false;
  }
}

async function describeProject(state: State, projectId: string, text: string): Promise<boolean> {
  const file = projectDescriptionFile(state.layout.root, projectId);
  try {
    await writeFileDurably(state.durable, 'project-description', file, text);
    // The project may have gone meanwhile.
    return !(await removeEmptyProject(path.dirname(file)));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
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
