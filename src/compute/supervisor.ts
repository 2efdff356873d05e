/**
 * Knows every compute of this machine, by endpoint id, and serialises what happens to each.
 *
 * Two locks, taken in this order: the endpoint's (one start, stop or change at a time; nothing of one endpoint ever
 * waits for another) and the timeline's data directory (storage's; clones of a sleeping branch hold it for
 * milliseconds). Whoever holds the data directory finds its Postgres either known here or not running.
 * A limit on parallel starts keeps a stampede from slowing every single one.
 */
import { readFile, readdir, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { Home } from '../home.ts';
import { AppError, errorMessage } from '../lib/errors.ts';
import { KeyLock } from '../lib/key-lock.ts';
import type { Logger } from '../lib/log.ts';
import { Semaphore } from '../lib/semaphore.ts';
import type { Stopwatch } from '../lib/stopwatch.ts';
import { findServer, readPostmaster, stopServer } from '../postgres/server.ts';
import type { Installations } from '../postgres/types.ts';
import type { Storage, TimelineRef } from '../storage/types.ts';
import type { Bounds } from './autoscale.ts';
import { applyChanges } from './changes.ts';
import { Compute } from './compute.ts';
import { NO_COMPUTE_LIMITS, type ComputeLimits } from './limits.ts';
import { writeNote } from './notes.ts';
import type { ComputeRecord } from './places.ts';
import { placesOf, readRecords, removePlaces } from './places.ts';
import { readRolesAndDatabases } from './roles-and-databases.ts';
import { sandboxLauncher } from './sandbox.ts';
import { createReplicationRelay } from './replication-relay.ts';
import { maxConnections } from './sizes.ts';
import type { StartContext } from './start-compute.ts';
import { changeJwtRoles, resizeCompute, startCompute } from './start-compute.ts';
import type { ComputeAddress, ComputeChange, ComputeSpec, StandbySpec, Supervisor } from './types.ts';

export interface SupervisorOptions {
  home: Home;
  storage: Storage;
  installations: Installations;
  logger: Logger;
  /** A clock that never jumps, in milliseconds. Default: the process's own. */
  nowMs?: () => number;
  /** How many computes may be starting at once. Default: four per processor. */
  parallelStarts?: number;
  /** Default: none, and computes are as large as the machine. */
  limits?: ComputeLimits;
  /** How long a clean shutdown may take before it is cut short. Default: 15 seconds. */
  fastStopWithinMs?: number;
}

/** What a follower that keeps up needs is a few milliseconds. */
const FOLLOWERS_WITHIN_MS = 2_000;

interface State {
  context: StartContext;
  computes: Map<string, Compute>;
  endpoints: KeyLock;
  starts: Semaphore;
  startListeners: ((endpointId: string) => void)[];
  exitListeners: ((endpointId: string) => void)[];
}

export function createSupervisor(options: SupervisorOptions): Supervisor {
  const { home, storage, installations, logger } = options;
  let secret: Promise<string> | undefined;
  const readOnce = (): Promise<string> => (secret ??= readSecret(home));
  const relay = createReplicationRelay({
    sockets: home.sockets,
    secret: readOnce,
    findPrimary: (timeline) => findPrimary(state, timeline)?.address,
    onLost: (endpointId) => void giveUp(state, endpointId),
    logger,
  });
  const state: State = {
    context: {
      home,
      storage,
      installations,
      logger,
      nowMs: options.nowMs ?? (() => performance.now()),
      hostMemoryBytes: os.totalmem(),
      launcher: sandboxLauncher(),
      fastStopWithinMs: options.fastStopWithinMs ?? 15_000,
      secret: readOnce,
      relay,
      limits: options.limits ?? NO_COMPUTE_LIMITS,
    },
    computes: new Map(),
    endpoints: new KeyLock(),
    starts: new Semaphore(options.parallelStarts ?? 4 * os.availableParallelism()),
    startListeners: [],
    exitListeners: [],
  };
  const alone = <T>(endpointId: string, work: () => Promise<T>) => state.endpoints.exclusive(endpointId, work);
  return {
    start: (spec, changes, watch) => alone(spec.endpointId, () => start(state, spec, changes, watch)),
    suspend: (endpointId) => alone(endpointId, () => suspend(state, endpointId)),
    applyChanges: (endpointId, changes) =>
      alone(endpointId, async () => {
        const compute = runningCompute(state, endpointId);
        if (compute.spec.standby) return;
        await applyChanges(compute.sessions, changes);
        compute.tracker.noteUse();
      }),
    rolesAndDatabases: async (endpointId) =>
      runningCompute(state, endpointId).sessions.inPostgres(readRolesAndDatabases),
    query: async (endpointId, sql) =>
      runningCompute(state, endpointId).sessions.inPostgres((session) => session.query(sql)),
    address: (endpointId) => running(state, endpointId)?.address,
    activity: async (endpointId, how) => running(state, endpointId)?.activity(how),
    noteConnections: (endpointId, open, change) => running(state, endpointId)?.tracker.noteConnections(open, change),
    note: (endpointId, lines) => writeNote(placesOf(home, endpointId).log, lines, logger),
    sizes: () => new Map([...state.computes].flatMap(([id, compute]) => (compute.isRunning ? [[id, compute.cu]] : []))),
    running: () => [...state.computes.keys()].filter((endpointId) => running(state, endpointId) !== undefined),
    timelineOf: (endpointId) => running(state, endpointId)?.spec.timeline,
    adopt: () => adopt(state),
    onStart: (listener) => void state.startListeners.push(listener),
    onExit: (listener) => void state.exitListeners.push(listener),
    stopAll: async () => {
      await Promise.all(
        [...state.computes.keys()].map((endpointId) => alone(endpointId, () => suspend(state, endpointId))),
      );
    },
  };
}

async function readSecret(home: Home): Promise<string> {
  return (await readFile(path.join(home.secrets, 'cloud-admin'), 'utf8')).trim();
}

function running(state: State, endpointId: string): Compute | undefined {
  const compute = state.computes.get(endpointId);
  return compute?.isRunning ? compute : undefined;
}

function runningCompute(state: State, endpointId: string): Compute {
  const compute = running(state, endpointId);
  if (!compute) throw new AppError('not_found', 'the compute is not running');
  return compute;
}

/** The read-write compute of a timeline, while it takes sessions. */
function findPrimary(state: State, { projectId, timelineId }: TimelineRef): Compute | undefined {
  for (const compute of state.computes.values()) {
    const { timeline, standby } = compute.spec;
    const isIt = timeline.timelineId === timelineId && timeline.projectId === projectId && !standby;
    if (isIt && compute.isRunning) return compute;
  }
  return undefined;
}

async function start(state: State, spec: ComputeSpec, given: readonly ComputeChange[], watch?: Stopwatch) {
  const changes = spec.standby ? [] : given;
  const current = running(state, spec.endpointId);
  if (current && (await current.isAlive()) && (await becomes(state.context, current, spec))) {
    await applyChanges(current.sessions, changes);
    const jwtRoles = spec.jwtRoles ?? [];
    if (!isDeepStrictEqual(current.spec.jwtRoles ?? [], jwtRoles)) {
      await changeJwtRoles(state.context, current, jwtRoles);
    }
    current.tracker.noteUse();
    return current.address;
  }
  if (spec.standby) return startStandby(state, spec, spec.standby, watch);
  const compute = await state.context.storage.withDataDirectory(spec.timeline, async () => {
    await stopCurrent(state, spec.endpointId);
    const started = await state.starts.run(() => startCompute({ ...state.context, watch }, spec));
    // Still under the lock: a clone in this moment would find a Postgres that runs and that nobody answers for.
    await applyChanges(started.sessions, changes).catch(async (error: unknown) => {
      await started.stop();
      throw error;
    });
    register(state, started);
    return started;
  });
  return compute.address;
}

/** Its data is made anew: what it was at the last time is of no use to anybody. */
async function startStandby(
  state: State,
  spec: ComputeSpec,
  { of, point }: StandbySpec,
  watch: Stopwatch | undefined,
): Promise<ComputeAddress> {
  const { timeline, owner, endpointId } = spec;
  const { storage } = state.context;
  if (of.projectId !== timeline.projectId) throw new Error('a standby is in the project of its primary');
  await suspend(state, endpointId);
  try {
    return await storage.withDataDirectory(timeline, async () => {
      // Before its turn to start: it waits for a primary that starts, which may be waiting for a turn.
      await storage.createStandbyTimeline({ ...timeline, parentTimelineId: of.timelineId, owner, point });
      const started = await state.starts.run(() => startCompute({ ...state.context, watch }, spec));
      register(state, started);
      return started.address;
    });
  } catch (error) {
    await removeStandby(state, spec);
    throw error;
  }
}

/** It would show what was for ever: better that the next connection makes it anew. Never throws. */
async function giveUp(state: State, endpointId: string): Promise<void> {
  const { logger } = state.context;
  logger.warn({ endpointId }, 'a read replica cannot follow its primary any more, and is stopped');
  try {
    await state.endpoints.exclusive(endpointId, () => suspend(state, endpointId));
    for (const listener of state.exitListeners) listener(endpointId);
  } catch (error) {
    logger.error({ endpointId, reason: errorMessage(error) }, 'could not stop a read replica');
  }
}

async function removeStandby(state: State, spec: ComputeSpec): Promise<void> {
  await state.context.relay.close(spec.endpointId);
  await state.context.storage.deleteTimeline(spec.timeline);
}

const connectionsOf = ({ minCu, maxCu }: Bounds) => ({
  minCu: undefined,
  maxCu: undefined,
  connections: maxConnections(minCu, maxCu),
});

/**
 * Sizes change while it runs where Postgres need not know, and roles of JWTs always; for anything else it takes a restart.
 * They are compared as they are written down: an adopted compute's spec comes from its record, where what is undefined is
 * left out.
 */
async function becomes(context: StartContext, compute: Compute, spec: ComputeSpec): Promise<boolean> {
  const written = (one: ComputeSpec): unknown => {
    const { standby } = one;
    // A standby only needs to know how many connections its primary's size makes.
    const followed = standby && { ...standby.primary, ...connectionsOf(standby.primary) };
    return JSON.parse(
      JSON.stringify({ ...one, jwtRoles: undefined, standby: standby && { ...standby, primary: followed } }),
    );
  };
  if (isDeepStrictEqual(written(compute.spec), written(spec))) return true;
  const { minCu, maxCu } = spec;
  if (!isDeepStrictEqual(written({ ...compute.spec, minCu, maxCu }), written(spec))) return false;
  return resizeCompute(context, compute, spec);
}

async function suspend(state: State, endpointId: string): Promise<void> {
  const compute = state.computes.get(endpointId);
  if (!compute) return;
  const { spec } = compute;
  await state.context.storage.withDataDirectory(spec.timeline, () => stopCurrent(state, endpointId));
  if (spec.standby) await removeStandby(state, spec);
}

async function stopCurrent(state: State, endpointId: string): Promise<void> {
  const compute = state.computes.get(endpointId);
  if (!compute) return;
  const { relay } = state.context;
  // A walsender stays until its follower has all the WAL; one that cannot keep up gets the rest at the next start.
  const impatient = compute.spec.standby
    ? undefined
    : setTimeout(() => relay.cut(compute.spec.timeline), FOLLOWERS_WITHIN_MS);
  await compute.stop();
  clearTimeout(impatient);
  state.computes.delete(endpointId);
}

function register(state: State, compute: Compute): void {
  const { endpointId } = compute.spec;
  state.computes.set(endpointId, compute);
  if (!compute.spec.standby) state.context.relay.primaryStarted(compute.spec.timeline);
  for (const listener of state.startListeners) listener(endpointId);
  void compute.follow();
  void compute.exited.then(() => ended(state, compute));
}

/** Never throws: it runs on its own. */
async function ended(state: State, compute: Compute): Promise<void> {
  const { endpointId } = compute.spec;
  const { logger } = state.context;
  // Asked for, or already replaced: nothing to tell.
  if (state.computes.get(endpointId) !== compute || compute.stopRequested) return;
  state.computes.delete(endpointId);
  logger.warn({ endpointId }, 'a compute ended by itself');
  try {
    await state.endpoints.exclusive(endpointId, async () => {
      const replaced = state.computes.has(endpointId);
      await compute.clear(replaced);
      if (compute.spec.standby && !replaced) await removeStandby(state, compute.spec);
    });
    for (const listener of state.exitListeners) listener(endpointId);
  } catch (error) {
    logger.error({ endpointId, reason: errorMessage(error) }, 'could not clear up after a compute');
  }
}

async function adopt(state: State): Promise<string[]> {
  const { home, storage, logger } = state.context;
  const records = await readRecords(home);
  const adopted = await Promise.all(
    records.map((record) =>
      state.endpoints.exclusive(record.spec.endpointId, async () => {
        if (state.computes.has(record.spec.endpointId)) return undefined;
        try {
          return await adoptOne(state, record);
        } catch (error) {
          logger.error(
            { endpointId: record.spec.endpointId, reason: errorMessage(error) },
            'could not adopt a compute',
          );
          return undefined;
        }
      }),
    ),
  );
  const { timelines } = await storage.listTimelines();
  const known = new Set([...state.computes.values()].map((compute) => storage.dataDirectory(compute.spec.timeline)));
  for (const timeline of timelines) {
    const dataDirectory = storage.dataDirectory(timeline);
    if (known.has(dataDirectory)) continue;
    const stray = await findServer(dataDirectory);
    if (!stray) continue;
    logger.warn({ branchId: timeline.timelineId }, 'stopping a Postgres that no record knows');
    await storage.withDataDirectory(timeline, () => stopServer(stray, dataDirectory, { fastWithinMs: 10_000 }));
  }
  await Promise.all([
    removeStaleSockets(state),
    state.context.relay.removeStrays(),
    state.context.limits.removeStale(new Set(state.computes.keys())),
  ]);
  return adopted.filter((endpointId) => endpointId !== undefined);
}

/** Takes over a compute that was ready for clients; ends one that was still on its way, and forgets one that is gone. */
async function adoptOne(state: State, record: ComputeRecord): Promise<string | undefined> {
  const { home, storage, logger, nowMs, fastStopWithinMs } = state.context;
  const { spec, socketDirectory } = record;
  const places = placesOf(home, spec.endpointId);
  const dataDirectory = storage.dataDirectory(spec.timeline);
  const server = await findServer(dataDirectory);
  const status = server && (await readPostmaster(dataDirectory))?.status;
  if (server && record.ready && status === 'ready') {
    const secret = await state.context.secret();
    const place = await state.context.limits.adopt(spec.endpointId, server.pid);
    await adoptFollower(state, spec, places.configuration);
    const parts = {
      spec,
      dataDirectory,
      places,
      socketDirectory,
      server,
      place,
      secret,
      logger,
      nowMs,
      fastStopWithinMs,
    };
    register(state, new Compute(parts));
    logger.info({ endpointId: spec.endpointId }, 'adopted a compute');
    return spec.endpointId;
  }
  if (server) {
    await storage.withDataDirectory(spec.timeline, () => stopServer(server, dataDirectory, { fastWithinMs: 10_000 }));
  }
  await removePlaces(places, socketDirectory);
  return undefined;
}

/** What streams to it has ended with the Ballast that it outlived; it asks again and again under the same name. */
async function adoptFollower(state: State, spec: ComputeSpec, configuration: string): Promise<void> {
  const { endpointId, owner, standby } = spec;
  if (standby?.point.kind !== 'head') return;
  await state.context.relay.open({ endpointId, owner, of: standby.of, configuration });
}

/** Directories of sockets whose compute is gone. */
async function removeStaleSockets(state: State): Promise<void> {
  const { sockets } = state.context.home;
  const used = new Set([...state.computes.values()].map((compute) => path.basename(compute.socketDirectory)));
  const names = await readdir(sockets).catch((): string[] => []);
  const stale = names.filter((name) => /^[0-9a-f]{24}$/.test(name) && !used.has(name));
  await Promise.all(stale.map((name) => rm(path.join(sockets, name), { recursive: true, force: true })));
}
