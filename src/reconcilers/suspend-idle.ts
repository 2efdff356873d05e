/**
 * Puts computes to sleep that no client has used for the endpoint's suspend_timeout_seconds (0: the default, -1: never).
 *
 * The operation says `idleOnly`: a client that comes between here and there keeps its compute.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import { beginSuspend, endpointsByIds, recordActivity, type WatchedEndpoint } from '../catalog/reconciling.ts';
import type { ComputeActivity, Supervisor } from '../compute/types.ts';
import type { OperationQueue } from '../operations/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface SuspendIdleOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  supervisor: Pick<Supervisor, 'running'>;
  activity(endpointId: string): Promise<ComputeActivity | undefined>;
  defaultSuspendTimeoutSeconds: number;
}

/** No timeout is shorter than this, so nothing younger is worth a question to the catalog. */
const SHORTEST_MS = 1_000;
const RECORD_EVERY_MS = 60_000;

export function suspendIdle(options: SuspendIdleOptions): Reconciler {
  const { catalog, queue, supervisor, activity } = options;
  let recordedAtMs = Number.NEGATIVE_INFINITY;
  return {
    name: 'suspend-idle',
    everyMs: 1_000,
    run: async () => {
      const seen = await Promise.all(supervisor.running().map((endpointId) => activity(endpointId)));
      const activities = new Map(seen.flatMap((one) => (one ? [[one.endpointId, one] as const] : [])));
      const idle = [...activities.values()].filter((one) => !one.busy && one.idleMs >= SHORTEST_MS);
      const endpoints = await endpointsByIds(
        catalog,
        idle.map((one) => one.endpointId),
      );
      for (const endpoint of endpoints) {
        const timeoutMs = suspendTimeoutMs(endpoint, options.defaultSuspendTimeoutSeconds);
        if (activities.get(endpoint.id)!.idleMs >= timeoutMs) await suspend(catalog, queue, endpoint);
      }
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

function suspendTimeoutMs(endpoint: WatchedEndpoint, defaultSeconds: number): number {
  const seconds = endpoint.suspendTimeoutSeconds === 0 ? defaultSeconds : endpoint.suspendTimeoutSeconds;
  return seconds < 0 ? Number.POSITIVE_INFINITY : seconds * 1_000;
}

/** Appends a suspend unless something else is under way; `force` cuts clients. */
export async function suspend(
  catalog: CatalogDatabase,
  queue: OperationQueue,
  endpoint: WatchedEndpoint,
  options: { force?: boolean } = {},
): Promise<void> {
  if (endpoint.busy) return;
  const { id: endpointId, branchId, projectId } = endpoint;
  const appended = await catalog.transaction(async (tx) => {
    if (!(await beginSuspend(tx, endpointId))) return false;
    const payload = options.force ? {} : { idleOnly: true };
    await queue.append(tx, [{ projectId, branchId, endpointId, action: 'suspend_compute', payload }]);
    return true;
  });
  if (appended) queue.poke();
}
