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
import { findServer, readPostmaster, stopServer } from '../postgres/server.ts';
import type { Installations } from '../postgres/types.ts';
import type { Storage } from '../storage/types.ts';
import { applyChanges } from './changes.ts';
import { Compute } from './compute.ts';
import type { ComputeRecord } from './places.ts';
import { placesOf, readRecords, removePlaces } from './places.ts';
import { readRolesAndDatabases } from './roles-and-databases.ts';
import { sandboxLauncher } from './sandbox.ts';
import type { StartContext } from './start-compute.ts';
import { startCompute } from './start-compute.ts';
import type { ComputeChange, ComputeSpec, Supervisor } from './types.ts';

export interface SupervisorOptions {
  home: Home;
  storage: Storage;
  installations: Installations;
  logger: Logger;
  /** A clock that never jumps, in milliseconds. Default: the process's own. */
  nowMs?: () => number;
  /** How many computes may be starting at once. Default: four per processor. */
  parallelStarts?: number;
  /** How long a clean shutdown may take before it is cut short. Default: 15 seconds. */
  fastStopWithinMs?: number;
}

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
      secret: () => (secret ??= readSecret(home)),
    },
    computes: new Map(),
    endpoints: new KeyLock(),
    starts: new Semaphore(options.parallelStarts ?? 4 * os.availableParallelism()),
    startListeners: [],
    exitListeners: [],
  };
  const alone = <T>(endpointId: string, work: () => Promise<T>) => state.endpoints.exclusive(endpointId, work);
  return {
    start: (spec, changes) => alone(spec.endpointId, () => start(state, spec, changes)),
    suspend: (endpointId) => alone(endpointId, () => suspend(state, endpointId)),
    applyChanges: (endpointId, changes) =>
      alone(endpointId, async () => {
        const compute = runningCompute(state, endpointId);
        await applyChanges(compute.sessions, changes);
        compute.tracker.noteUse();
      }),
    rolesAndDatabases: async (endpointId) =>
      runningCompute(state, endpointId).sessions.inPostgres(readRolesAndDatabases),
    query: async (endpointId, sql) =>
      runningCompute(state, endpointId).sessions.inPostgres((session) => session.query(sql)),
    address: (endpointId) => running(state, endpointId)?.address,
    activity: async (endpointId) => running(state, endpointId)?.activity(),
    noteConnections: (endpointId, open) => running(state, endpointId)?.tracker.noteConnections(open),
    running: () => [...state.computes.keys()].filter((endpointId) => running(state, endpointId) !== undefined),
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

async function start(state: State, spec: ComputeSpec, changes: readonly ComputeChange[]) {
  const current = running(state, spec.endpointId);
  if (current && isSameSpec(current.spec, spec) && (await current.isAlive())) {
    await applyChanges(current.sessions, changes);
    current.tracker.noteUse();
    return current.address;
  }
  const compute = await state.context.storage.withDataDirectory(spec.timeline, async () => {
    await stopCurrent(state, spec.endpointId);
    const started = await state.starts.run(() => startCompute(state.context, spec));
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

/** As they are written down: an adopted compute's spec comes from its record, where what is undefined is left out. */
function isSameSpec(a: ComputeSpec, b: ComputeSpec): boolean {
  const written = (spec: ComputeSpec): unknown => JSON.parse(JSON.stringify(spec));
  return isDeepStrictEqual(written(a), written(b));
}

async function suspend(state: State, endpointId: string): Promise<void> {
  const compute = state.computes.get(endpointId);
  if (!compute) return;
  await state.context.storage.withDataDirectory(compute.spec.timeline, () => stopCurrent(state, endpointId));
}

async function stopCurrent(state: State, endpointId: string): Promise<void> {
  const compute = state.computes.get(endpointId);
  if (!compute) return;
  await compute.stop();
  state.computes.delete(endpointId);
}

function register(state: State, compute: Compute): void {
  const { endpointId } = compute.spec;
  state.computes.set(endpointId, compute);
  for (const listener of state.startListeners) listener(endpointId);
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
    await state.endpoints.exclusive(endpointId, () => compute.clear(state.computes.has(endpointId)));
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
  await removeStaleSockets(state);
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
    register(
      state,
      new Compute({ spec, dataDirectory, places, socketDirectory, server, secret, logger, nowMs, fastStopWithinMs }),
    );
    logger.info({ endpointId: spec.endpointId }, 'adopted a compute');
    return spec.endpointId;
  }
  if (server) {
    await storage.withDataDirectory(spec.timeline, () => stopServer(server, dataDirectory, { fastWithinMs: 10_000 }));
  }
  await removePlaces(places, socketDirectory);
  return undefined;
}

/** Directories of sockets whose compute is gone. */
async function removeStaleSockets(state: State): Promise<void> {
  const { sockets } = state.context.home;
  const used = new Set([...state.computes.values()].map((compute) => path.basename(compute.socketDirectory)));
  const names = await readdir(sockets).catch((): string[] => []);
  const stale = names.filter((name) => /^[0-9a-f]{24}$/.test(name) && !used.has(name));
  await Promise.all(stale.map((name) => rm(path.join(sockets, name), { recursive: true, force: true })));
}
