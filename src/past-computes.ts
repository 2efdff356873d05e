/**
 * Read-only computes that stand at a point of a branch's history, for whoever asks about it: clients who connect to the
 * past, and dumps of the schema as it was.
 *
 * One per timeline and point, shared by all who mean it; gone half a minute after it was last used. No row knows them:
 * what a crash of Ballast leaves running is stopped at the next start (reconcilers/recover.ts).
 */
import { randomBytes } from 'node:crypto';
import type { ComputeAddress, ComputeSpec, Supervisor } from './compute/types.ts';
import { AppError } from './lib/errors.ts';
import type { Logger } from './lib/log.ts';
import type { HistoryWindow, PointQuery } from './lib/point.ts';
import { SingleFlight } from './lib/single-flight.ts';
import type { FileOwner, Storage, TimelineRef } from './storage/types.ts';

/** A branch's data, and what its read-write endpoint has. */
export interface PastBranch extends TimelineRef {
  pgVersion: number;
  owner: FileOwner | undefined;
  /** Default: the smallest. A compute that was larger at that time gets what it had. */
  size?: { minCu: number; maxCu: number };
}

export interface PastComputes {
  /**
   * Where the branch can be asked about the point; starts a compute where none stands there. `stale` is an address that
   * just refused a connection. Throws AppErrors with a text for people: 'unprocessable' for a point that is not in the
   * window, 'unavailable' when too many run.
   */
  reach(
    branch: PastBranch,
    query: PointQuery,
    window: HistoryWindow,
    options?: { stale?: ComputeAddress },
  ): Promise<ComputeAddress>;
  /** The same, with the compute kept for as long as `work` takes. */
  withPastCompute<T>(
    branch: PastBranch,
    query: PointQuery,
    window: HistoryWindow,
    work: (address: ComputeAddress) => Promise<T>,
  ): Promise<T>;
  /** How many clients are connected to any point of the timeline now. */
  noteConnections(timeline: TimelineRef, open: number): void;
  /** Stops all that stand in the past of the timeline, which is about to be deleted. */
  leave(timeline: TimelineRef): Promise<void>;
  /** True for the endpoint id of a compute that is wanted. */
  holds(endpointId: string): boolean;
  /** Stops those that nobody has used for a while; runs by itself every few seconds. */
  sweep(): Promise<void>;
  close(): Promise<void>;
}

export interface PastComputesOptions {
  supervisor: Pick<Supervisor, 'start' | 'suspend' | 'address' | 'activity' | 'noteConnections'>;
  storage: Pick<Storage, 'resolvePoint'>;
  logger: Logger;
  /** Default: 16. */
  max?: number;
  /** Default: 30 seconds. */
  idleMs?: number;
}

interface Past {
  endpointId: string;
  key: string;
  timeline: TimelineRef;
  /** Undefined while it starts. */
  address: ComputeAddress | undefined;
  /** Works of withPastCompute. */
  users: number;
  /** performance.now() */
  usedAtMs: number;
}

interface State {
  options: PastComputesOptions;
  /** By timeline and LSN. */
  computes: Map<string, Past>;
  /** Open connections by timeline. */
  open: Map<string, number>;
  flights: SingleFlight<Past>;
  idleMs: number;
  max: number;
}

const MAX_COMPUTES = 16;
const IDLE_MS = 30_000;
const SWEEP_EVERY_MS = 2_000;
const SMALLEST_CU = 0.25;

const keyOf = ({ projectId, timelineId }: TimelineRef): string => `${projectId}/${timelineId}`;

export function createPastComputes(options: PastComputesOptions): PastComputes {
  const state: State = {
    options,
    computes: new Map(),
    open: new Map(),
    flights: new SingleFlight(),
    idleMs: options.idleMs ?? IDLE_MS,
    max: options.max ?? MAX_COMPUTES,
  };
  let sweeping: Promise<void> | undefined;
  const sweepOnce = (): Promise<void> => (sweeping ??= sweep(state).finally(() => (sweeping = undefined)));
  const timer = setInterval(() => {
    sweepOnce().catch((error: unknown) =>
      options.logger.warn({ err: error }, 'past computes could not be looked after'),
    );
  }, SWEEP_EVERY_MS);
  timer.unref();
  return {
    reach: async (branch, query, window, how = {}) => (await reach(state, branch, query, window, how.stale)).address!,
    withPastCompute: async (branch, query, window, work) => {
      const past = await reach(state, branch, query, window, undefined);
      past.users += 1;
      try {
        return await work(past.address!);
      } finally {
        past.users -= 1;
        past.usedAtMs = performance.now();
      }
    },
    noteConnections: (timeline, open) => {
      const key = keyOf(timeline);
      if (open === 0) state.open.delete(key);
      else state.open.set(key, open);
      for (const past of state.computes.values()) {
        if (keyOf(past.timeline) === key) options.supervisor.noteConnections(past.endpointId, open);
      }
    },
    leave: async (timeline) => {
      const those = [...state.computes.values()].filter((past) => keyOf(past.timeline) === keyOf(timeline));
      await Promise.all(those.map((past) => stop(state, past)));
    },
    holds: (endpointId) => [...state.computes.values()].some((past) => past.endpointId === endpointId),
    sweep: sweepOnce,
    close: async () => {
      clearInterval(timer);
      await sweeping?.catch(() => undefined);
      await Promise.all([...state.computes.values()].map((past) => stop(state, past)));
    },
  };
}

/** Who looks at the past of data that goes is cut off like the clients of its compute. */
export function leavingFirst(storage: Storage, past: Pick<PastComputes, 'leave'>): Storage {
  return {
    ...storage,
    deleteTimeline: async (timeline, how) => {
      await past.leave(timeline);
      await storage.deleteTimeline(timeline, how);
    },
  };
}

async function reach(
  state: State,
  branch: PastBranch,
  query: PointQuery,
  window: HistoryWindow,
  stale: ComputeAddress | undefined,
): Promise<Past> {
  const { projectId, timelineId } = branch;
  const { lsn } = await state.options.storage.resolvePoint({ projectId, timelineId }, query, window);
  const key = `${keyOf(branch)}@${lsn}`;
  return state.flights.run(key, async () => {
    const present = state.computes.get(key);
    if (present) {
      const address = state.options.supervisor.address(present.endpointId);
      if (address && address.socketDirectory !== stale?.socketDirectory) {
        present.usedAtMs = performance.now();
        return present;
      }
      await stop(state, present);
    }
    return start(state, branch, lsn, key);
  });
}

async function start(state: State, branch: PastBranch, lsn: string, key: string): Promise<Past> {
  const { supervisor, logger } = state.options;
  await makeRoom(state);
  const { projectId, timelineId, pgVersion, owner } = branch;
  const size = branch.size ?? { minCu: SMALLEST_CU, maxCu: SMALLEST_CU };
  const endpointId = `past-${randomBytes(8).toString('hex')}`;
  const spec: ComputeSpec = {
    endpointId,
    timeline: { projectId, timelineId: endpointId },
    pgVersion,
    owner,
    ...size,
    pgSettings: {},
    preloadLibraries: [],
    logicalReplication: false,
    standby: {
      of: { projectId, timelineId },
      point: { kind: 'lsn', lsn },
      primary: { ...size, pgSettings: {} },
    },
  };
  const timeline = { projectId, timelineId };
  const past: Past = { endpointId, key, timeline, address: undefined, users: 0, usedAtMs: performance.now() };
  state.computes.set(key, past);
  try {
    past.address = await supervisor.start(spec, []);
  } catch (error) {
    state.computes.delete(key);
    throw error;
  }
  past.usedAtMs = performance.now();
  supervisor.noteConnections(endpointId, state.open.get(keyOf(timeline)) ?? 0);
  logger.debug({ endpointId, timelineId, lsn }, 'a compute stands in the past');
  return past;
}

/** Whoever has not been used for longest and is not in use now makes way. */
async function makeRoom(state: State): Promise<void> {
  if (state.computes.size < state.max) return;
  const unused = [...state.computes.values()]
    .filter((past) => past.address && past.users === 0 && !state.open.has(keyOf(past.timeline)))
    .toSorted((a, b) => a.usedAtMs - b.usedAtMs)[0];
  if (!unused) throw new AppError('unavailable', 'too many points in the past are being looked at; try again later');
  await stop(state, unused);
}

/** Forgotten first: whoever asks from now on gets another one. */
async function stop(state: State, past: Past): Promise<void> {
  if (state.computes.get(past.key) === past) state.computes.delete(past.key);
  await state.options.supervisor.suspend(past.endpointId);
}

async function sweep(state: State): Promise<void> {
  const { supervisor } = state.options;
  for (const past of state.computes.values()) {
    if (!past.address || past.users > 0) continue;
    const activity = await supervisor.activity(past.endpointId);
    const idleMs = Math.min(activity?.idleMs ?? Number.POSITIVE_INFINITY, performance.now() - past.usedAtMs);
    const goes = activity === undefined ? supervisor.address(past.endpointId) === undefined : !activity.busy;
    if (goes && (activity === undefined || idleMs >= state.idleMs) && past.users === 0) await stop(state, past);
  }
}
