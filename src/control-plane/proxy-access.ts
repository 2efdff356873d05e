/**
 * The proxy's door to the control plane: who may enter where, and a compute to enter.
 *
 * Answers come from memory while they are fresh: every change of a project through this process drops what is known of
 * it, and a short time to live covers other processes. When the catalog cannot be reached, what was known last is
 * served, so that an outage does not stop connections to known endpoints. A running compute is found without any query;
 * waking one is an ordinary start_compute operation, one at a time per endpoint however many clients wait.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { CatalogDatabase } from '../catalog/database.ts';
import {
  lockForWake,
  lookUpBranchEndpoint,
  lookUpEndpoint,
  lookUpPast,
  lookUpVerifier,
  markWaking,
  type EndpointLookup,
} from '../catalog/proxy-lookups.ts';
import type { OperationRow } from '../catalog/types.ts';
import { AppError, isAppError } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { OperationQueue } from '../operations/types.ts';
import type { HistoryWindow, PointQuery } from '../lib/point.ts';
import { createPastAccess } from './proxy-past.ts';
import { createRefreshes } from './proxy-refreshes.ts';
import { createRecall } from './proxy-recall.ts';
import type {
  ConnectionChange,
  EndpointChoice,
  ProxyAccess,
  ProxyEndpoint,
  SocketAddress,
} from './proxy-access.types.ts';

/** The engine as the proxy's side needs it; main.ts connects it. */
export interface ComputeFacts {
  /** Undefined when the endpoint's compute does not run or does not take clients. Never blocks. */
  address(endpointId: string): { socketDirectory: string; port: number; claimsKey?: Buffer } | undefined;
  /** Calls once when the compute comes up, which is a moment before its operation ends. Returns how to give up. */
  onceStarted(endpointId: string, listener: () => void): () => void;
  noteConnections(endpointId: string, open: number, change?: ConnectionChange): void;
  /** By the size of a compute. */
  maxConnections(minCu: number, maxCu: number): number;
  /** Compares roles inside a running compute with the rows; true when the rows were changed. */
  refreshRoles(endpointId: string): Promise<boolean>;
  past: PastFacts;
}

/** Computes that stand at a point of a branch's history. */
export interface PastFacts {
  /** Throws AppError with a text for people. */
  reach(
    branch: PastBranch,
    query: PointQuery,
    window: HistoryWindow,
    options: { stale?: { socketDirectory: string; port: number } },
  ): Promise<{ socketDirectory: string; port: number }>;
  noteConnections(timeline: { projectId: string; timelineId: string }, open: number): void;
}

export interface PastBranch {
  projectId: string;
  projectNumber: number;
  timelineId: string;
  pgVersion: number;
  size?: { minCu: number; maxCu: number };
}

export interface ProxyAccessDependencies {
  catalog: Pick<CatalogDatabase, 'query' | 'transaction'>;
  queue: OperationQueue;
  compute: ComputeFacts;
  logger: Logger;
}

export interface ProxyAccessWithCaches extends ProxyAccess {
  /** Call after every committed change of a project. */
  invalidate(projectId: string): void;
}

export const ENDPOINT_NOT_FOUND =
  "The requested endpoint could not be found, or you don't have access to it. Please check the provided ID and try again.";
export const ENDPOINT_DISABLED = 'The endpoint has been disabled. Enable it using Neon API and retry.';
const CONTROL_PLANE_FAILED = 'Control plane request failed';
const COMPUTE_UNREACHABLE = "Couldn't connect to compute node";

/** One wake waits at most this long in all; the proxy's own limits are shorter. */
const WAKE_WITHIN_MS = 120_000;
/** A compute may be put to sleep again just as it woke; more rounds than this are no coincidence. */
const WAKE_ROUNDS = 5;
/** Longer than this a login does not wait for a comparison of roles. */
const REFRESH_WITHIN_MS = 2_000;
/** A login takes no longer from reading a verifier to checking a proof, but for clients that are slow on purpose. */
const JUST_NOW_MS = 5_000;
const MAX_PROJECTS_KEPT = 10_000;

export function createProxyAccess(dependencies: ProxyAccessDependencies): ProxyAccessWithCaches {
  const { catalog, compute } = dependencies;
  const endpoints = createRecall<ProxyEndpoint | undefined>();
  const verifiers = createRecall<string | undefined>();
  const invalidatedAtMs = new Map<string, number>();
  const wakes = new SingleFlight<void>();
  const refreshes = createRefreshes((endpointId) => refreshRoles(dependencies, endpointId));

  const running = (endpointId: string): SocketAddress | undefined => {
    const address = compute.address(endpointId);
    return address && socketOf(address);
  };
  const past = createPastAccess(dependencies);

  return {
    endpoint: async (name, choice = {}) => {
      const { point, type } = choice;
      const key = [name, point ? 'past' : (type ?? '')].join(' ');
      const found = await endpoints.get(key, async () => {
        const row = await lookUp(catalog, name, choice);
        return { value: row && toProxyEndpoint(row, compute), group: row?.projectId };
      });
      return found && point ? { ...found, point } : found;
    },
    verifier: ({ branchId, projectId }, role) =>
      verifiers.get(`${branchId}/${role}`, async () => {
        const verifier = await lookUpVerifier(catalog, branchId, role);
        return { value: verifier?.startsWith('SCRAM-SHA-256$') ? verifier : undefined, group: projectId };
      }),
    refreshVerifiers: async ({ endpointId: own, readWriteEndpointId, projectId }, options) => {
      const endpointId = readWriteEndpointId === undefined ? own : readWriteEndpointId;
      if (endpointId === null || !compute.address(endpointId)) return false;
      const askedMs = performance.now();
      const changed = await refreshes.ask(endpointId, options?.fresh === true);
      if (changed) verifiers.invalidate(projectId);
      // What the caller read may be older than a change that somebody else has just brought in.
      return changed || (invalidatedAtMs.get(projectId) ?? Number.NEGATIVE_INFINITY) > askedMs - JUST_NOW_MS;
    },
    awake: ({ endpointId, point, disabled }) => (point || disabled ? undefined : running(endpointId)),
    wake: async (endpoint, { signal, stale }) => {
      if (endpoint.disabled) throw new AppError('forbidden', ENDPOINT_DISABLED);
      if (endpoint.point) return abortable(past.reach(endpoint, endpoint.point, stale), signal);
      let unusable = stale?.path;
      for (let round = 0; round < WAKE_ROUNDS; round += 1) {
        const address = running(endpoint.endpointId);
        if (address && address.path !== unusable) return round === 0 ? address : { ...address, woken: true };
        const refused = unusable;
        const isAwake = (): boolean => (running(endpoint.endpointId)?.path ?? refused) !== refused;
        await abortable(
          wakes.run(endpoint.endpointId, () => wakeOnce(dependencies, endpoint, isAwake)),
          signal,
        );
        // The start has seen to it: the same path is good again.
        unusable = undefined;
      }
      throw new AppError('unavailable', COMPUTE_UNREACHABLE);
    },
    noteConnections: (endpoint, open, change) =>
      endpoint.point
        ? past.noteConnections(endpoint, open)
        : compute.noteConnections(endpoint.endpointId, open, change),
    invalidate: (projectId) => {
      if (invalidatedAtMs.size >= MAX_PROJECTS_KEPT) invalidatedAtMs.clear();
      invalidatedAtMs.set(projectId, performance.now());
      endpoints.invalidate(projectId);
      verifiers.invalidate(projectId);
    },
  };
}

const socketOf = ({
  socketDirectory,
  port,
  claimsKey,
}: NonNullable<ReturnType<ComputeFacts['address']>>): SocketAddress => ({
  path: `${socketDirectory}/.s.PGSQL.${port}`,
  ...(claimsKey && { claimsKey }),
});

const isBranchId = (name: string): boolean => name.startsWith('br-');

type Lookup = Omit<EndpointLookup, 'type'> & { type?: EndpointLookup['type'] };

/** A branch stands for its read-write endpoint, and a type for the one of it that has it. */
async function lookUp(
  catalog: ProxyAccessDependencies['catalog'],
  name: string,
  { point, type }: EndpointChoice,
): Promise<Lookup | undefined> {
  if (point) return lookUpPast(catalog, name);
  if (isBranchId(name)) return lookUpBranchEndpoint(catalog, name, type ?? 'read_write');
  const row = await lookUpEndpoint(catalog, name);
  if (!row || type === undefined || row.type === type) return row;
  return lookUpBranchEndpoint(catalog, row.branchId, type);
}

/** Never throws: whoever logs in is then judged by what is known. */
async function refreshRoles({ compute, logger }: ProxyAccessDependencies, endpointId: string): Promise<boolean> {
  const late = sleep(REFRESH_WITHIN_MS, false, { ref: false });
  const changed = compute.refreshRoles(endpointId).catch((error: unknown) => {
    logger.debug({ err: error, endpoint: endpointId }, 'roles could not be compared');
    return false;
  });
  return Promise.race([changed, late]);
}

/** Returns when the newest start of the endpoint has ended well, or when none is needed any more. */
async function wakeOnce(
  dependencies: ProxyAccessDependencies,
  endpoint: ProxyEndpoint,
  isAwake: () => boolean,
): Promise<void> {
  let ended: OperationRow | undefined;
  try {
    const id = await startOperation(dependencies, endpoint, isAwake);
    if (id === undefined) return;
    ended = await startedOrEnded(dependencies, endpoint.endpointId, id);
  } catch (error) {
    if (isAppError(error) && error.kind !== 'unavailable' && error.kind !== 'internal') throw error;
    dependencies.logger.warn({ err: error, endpoint: endpoint.endpointId }, 'a compute could not be woken');
    throw new AppError('unavailable', isTimeout(error) ? COMPUTE_UNREACHABLE : CONTROL_PLANE_FAILED, { cause: error });
  }
  if (ended?.status !== 'failed') return;
  throw new AppError('unavailable', ended.error ? `${COMPUTE_UNREACHABLE}: ${ended.error}` : COMPUTE_UNREACHABLE);
}

/** Undefined: clients may enter; that the rows do not say so yet is no reason to wait. */
async function startedOrEnded(
  { queue, compute }: ProxyAccessDependencies,
  endpointId: string,
  operationId: string,
): Promise<OperationRow | undefined> {
  const over = new AbortController();
  let forget!: () => void;
  const started = new Promise<undefined>((resolve) => {
    forget = compute.onceStarted(endpointId, () => resolve(undefined));
  });
  const ended = queue.ended(operationId, AbortSignal.any([over.signal, AbortSignal.timeout(WAKE_WITHIN_MS)]));
  // When the start is heard of first, giving up the wait for the end rejects it.
  ended.catch(() => undefined);
  try {
    return await Promise.race([started, ended]);
  } finally {
    forget();
    over.abort();
  }
}

/** The start to wait for: the one that is under way, or a new one behind whatever else is. Undefined: it has just ended. */
async function startOperation(
  { catalog, queue }: ProxyAccessDependencies,
  endpoint: ProxyEndpoint,
  isAwake: () => boolean,
): Promise<string | undefined> {
  const { endpointId, projectId } = endpoint;
  const id = await queue.appendStart(catalog, endpointId);
  if (id !== undefined) {
    queue.poke();
    return id;
  }
  // Losing it in a crash is harmless: whoever waited for it is gone as well.
  const result = await catalog.transaction(
    async (tx) => {
      const state = (await lockForWake(tx, endpointId)) ?? (await lockForWake(tx, endpointId));
      if (!state || state.deleted) throw new AppError('not_found', ENDPOINT_NOT_FOUND);
      if (state.disabled) throw new AppError('forbidden', ENDPOINT_DISABLED);
      if (state.operationId !== null && state.operationAction === 'start_compute')
        return { id: state.operationId, appended: false };
      if (state.operationId === null && isAwake()) return { id: undefined, appended: false };
      const { branchId } = state;
      const [operation] = await queue.append(tx, [{ projectId, branchId, endpointId, action: 'start_compute' }]);
      await markWaking(tx, endpointId);
      return { id: operation!.id, appended: true };
    },
    { durable: false },
  );
  if (result.appended) queue.poke();
  return result.id;
}

function toProxyEndpoint(row: Lookup, compute: ComputeFacts): ProxyEndpoint {
  const { endpointId, projectId, branchId, disabled, blockPublicConnections, type, readWriteEndpointId } = row;
  const applies = !row.protectedBranchesOnly || row.protected;
  return {
    endpointId,
    projectId,
    branchId,
    disabled,
    allowedIps: applies ? row.allowedIps : [],
    blockPublicConnections,
    maxConnections: compute.maxConnections(row.minCu, row.maxCu),
    jwks: row.jwks,
    ...(type !== 'read_write' && { readWriteEndpointId }),
  };
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'TimeoutError';
}

/** Rejects when the signal aborts; the work goes on for the others who share it. */
async function abortable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  let abort!: () => void;
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = () => reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
  });
  // When nobody waits any more its failure has been told already, to nobody.
  work.catch(() => undefined);
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
