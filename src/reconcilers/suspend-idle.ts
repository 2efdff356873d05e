/**
 * Puts computes to sleep that no client has used for the endpoint's suspend_timeout_seconds (0: the default, -1: never),
 * and says in the endpoint's log why one sleeps, or why it does not though its time is up.
 *
 * The operation says `idleOnly`: a client that comes between here and there keeps its compute.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import { beginSuspend, endpointsByIds, recordActivity, type WatchedEndpoint } from '../catalog/reconciling.ts';
import type { ComputeActivity, Supervisor } from '../compute/types.ts';
import type { OperationQueue } from '../operations/types.ts';
import {
  describeKeeper,
  describeMs,
  describeProcess,
  judge,
  suspendTimeoutMs,
  type ConnectedClient,
  type Judgement,
  type Keeper,
} from './keep-awake.ts';
import type { Reconciler } from './reconciler.ts';

export interface SuspendIdleOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  supervisor: Pick<Supervisor, 'running' | 'note'>;
  activity(endpointId: string): Promise<ComputeActivity | undefined>;
  clientsOf(endpointId: string): readonly ConnectedClient[];
  defaultSuspendTimeoutSeconds: number;
}

/** No timeout is shorter than this, so nothing younger is worth a question to the catalog. */
const SHORTEST_MS = 1_000;
const RECORD_EVERY_MS = 60_000;
/** How often at most an endpoint's log says why it stays awake. */
const TELL_EVERY_MS = 60_000;
const TOLD_AT_MOST = 5;

export function suspendIdle(options: SuspendIdleOptions): Reconciler {
  const { catalog, queue, supervisor, activity } = options;
  const tell = createTeller(options);
  let recordedAtMs = Number.NEGATIVE_INFINITY;
  return {
    name: 'suspend-idle',
    everyMs: 1_000,
    run: async () => {
      const seen = await Promise.all(supervisor.running().map((endpointId) => activity(endpointId)));
      const activities = new Map(seen.flatMap((one) => (one ? [[one.endpointId, one] as const] : [])));
      const quiet = [...activities.values()].filter((one) => one.quietMs >= SHORTEST_MS);
      const endpoints = await endpointsByIds(
        catalog,
        quiet.map((one) => one.endpointId),
      );
      for (const endpoint of endpoints) {
        const judgement = judgeEndpoint(options, endpoint, activities.get(endpoint.id)!);
        if (judgement.suspendInMs === 0) {
          if (await suspend(catalog, queue, endpoint)) tell.suspended(endpoint, judgement);
        } else tell.stays(endpoint, judgement);
      }
      tell.forgetOthers(activities);
      if (performance.now() - recordedAtMs >= RECORD_EVERY_MS) {
        recordedAtMs = performance.now();
        await recordActivity(
          catalog,
          [...activities.values()].map(({ endpointId, idleMs, busy }) => ({ endpointId, idleMs: busy ? 0 : idleMs })),
        );
      }
    },
  };
}

export function judgeEndpoint(
  options: Pick<SuspendIdleOptions, 'clientsOf' | 'defaultSuspendTimeoutSeconds'>,
  endpoint: Pick<WatchedEndpoint, 'id' | 'suspendTimeoutSeconds' | 'busy'> & { operation?: string | null },
  activity: ComputeActivity,
): Judgement {
  const { clientsOf, defaultSuspendTimeoutSeconds } = options;
  return judge({
    activity,
    timeoutMs: suspendTimeoutMs(endpoint.suspendTimeoutSeconds, defaultSuspendTimeoutSeconds),
    defaultTimeoutMs: defaultSuspendTimeoutSeconds * 1_000,
    operation: endpoint.busy ? { ...(endpoint.operation && { action: endpoint.operation }) } : undefined,
    clients: clientsOf(endpoint.id),
  });
}

/** Says each thing once, and again when something else keeps the compute awake. */
function createTeller({ supervisor, defaultSuspendTimeoutSeconds }: SuspendIdleOptions) {
  const told = new Map<string, { what: string; atMs: number }>();
  const timeoutOf = ({ suspendTimeoutSeconds }: WatchedEndpoint): string => {
    const timeoutMs = suspendTimeoutMs(suspendTimeoutSeconds, defaultSuspendTimeoutSeconds);
    return describeMs(timeoutMs === Number.POSITIVE_INFINITY ? defaultSuspendTimeoutSeconds * 1_000 : timeoutMs);
  };
  return {
    suspended: (endpoint: WatchedEndpoint, { idleSessions, idleSessionCount }: Judgement) => {
      const lines = [`suspending: nothing has kept the compute awake for ${timeoutOf(endpoint)}`];
      for (const session of idleSessions.slice(0, TOLD_AT_MOST)) lines.push(`  ends: ${describeProcess(session)}`);
      if (idleSessionCount > TOLD_AT_MOST) lines.push(`  and ${idleSessionCount - TOLD_AT_MOST} more idle sessions`);
      supervisor.note(endpoint.id, lines);
    },
    stays: (endpoint: WatchedEndpoint, { overdue, keepers, moreKeepers }: Judgement) => {
      // An operation ends by itself, and has its own place in the log.
      const lasting = keepers.filter(({ kind }) => kind !== 'operation');
      if (!overdue || lasting.length === 0) return;
      const what = lasting.map(identity).toSorted().join();
      const before = told.get(endpoint.id);
      const nowMs = performance.now();
      if (before && (before.what === what || nowMs - before.atMs < TELL_EVERY_MS)) return;
      told.set(endpoint.id, { what, atMs: nowMs });
      const lines = [`staying awake after ${timeoutOf(endpoint)} without a new query`];
      for (const keeper of lasting.slice(0, TOLD_AT_MOST)) lines.push(`  because of: ${describeKeeper(keeper)}`);
      const more = lasting.length - TOLD_AT_MOST + moreKeepers;
      if (more > 0) lines.push(`  and ${more} more`);
      supervisor.note(endpoint.id, lines);
    },
    /** Whatever was used since, or does not run any more. */
    forgetOthers: (activities: ReadonlyMap<string, ComputeActivity>) => {
      for (const endpointId of told.keys()) {
        if ((activities.get(endpointId)?.quietMs ?? 0) < SHORTEST_MS) told.delete(endpointId);
      }
    },
  };
}

const identity = (keeper: Keeper): string => ('pid' in keeper ? `${keeper.kind} ${keeper.pid}` : keeper.kind);

/** Appends a suspend unless something else is under way; `force` cuts clients. True when it was appended. */
export async function suspend(
  catalog: CatalogDatabase,
  queue: OperationQueue,
  endpoint: WatchedEndpoint,
  options: { force?: boolean } = {},
): Promise<boolean> {
  if (endpoint.busy) return false;
  const { id: endpointId, branchId, projectId } = endpoint;
  const appended = await catalog.transaction(async (tx) => {
    if (!(await beginSuspend(tx, endpointId))) return false;
    const payload = options.force ? {} : { idleOnly: true };
    await queue.append(tx, [{ projectId, branchId, endpointId, action: 'suspend_compute', payload }]);
    return true;
  });
  if (appended) queue.poke();
  return appended;
}
