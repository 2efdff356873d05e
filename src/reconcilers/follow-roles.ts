/**
 * Follows roles, passwords and databases that SQL made, changed or dropped.
 *
 * The activity poll carries a fingerprint of them. Where it is not the one that the rows are known to equal, the facts
 * are read and compared, and only a real difference becomes a sync_dbs_and_roles_from_compute operation.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import { endpointsByIds } from '../catalog/reconciling.ts';
import { differsFromFacts } from '../catalog/transitions.ts';
import type { ComputeActivity, Supervisor } from '../compute/types.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { OperationQueue } from '../operations/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface FollowRolesOptions {
  catalog: CatalogDatabase;
  queue: OperationQueue;
  supervisor: Pick<Supervisor, 'running' | 'rolesAndDatabases' | 'address'>;
  activity(endpointId: string): Promise<ComputeActivity | undefined>;
  /** Shared with the actions; see ActionContext. */
  syncedFingerprints: Map<string, string>;
}

export interface FollowRoles extends Reconciler {
  /** Compares one running compute now; resolves to true once differences have reached the rows. */
  check(endpointId: string, signal: AbortSignal): Promise<boolean>;
}

export function followRoles(options: FollowRolesOptions): FollowRoles {
  const { catalog, queue, supervisor, activity, syncedFingerprints } = options;
  const checks = new SingleFlight<string | undefined>();

  /** The id of the sync operation, or undefined when rows and facts are the same. */
  const compare = async (endpointId: string): Promise<string | undefined> => {
    const [endpoint] = await endpointsByIds(catalog, [endpointId]);
    // What is under way on the branch settles its rows itself, or is looked at afterwards.
    if (!endpoint || endpoint.deleted || endpoint.busy || !supervisor.address(endpointId)) return undefined;
    const facts = await supervisor.rolesAndDatabases(endpointId);
    if (!(await differsFromFacts(catalog, endpoint.branchId, facts))) {
      syncedFingerprints.set(endpointId, facts.fingerprint);
      return undefined;
    }
    const { branchId, projectId } = endpoint;
    const [operation] = await catalog.transaction((tx) =>
      queue.append(tx, [{ projectId, branchId, endpointId, action: 'sync_dbs_and_roles_from_compute' }]),
    );
    queue.poke();
    return operation!.id;
  };

  return {
    name: 'follow-roles',
    everyMs: 1_000,
    run: async () => {
      for (const endpointId of supervisor.running()) {
        const seen = await activity(endpointId);
        if (!seen || seen.fingerprint === '' || seen.fingerprint === syncedFingerprints.get(endpointId)) continue;
        await checks.run(endpointId, () => compare(endpointId));
      }
    },
    check: async (endpointId, signal) => {
      const operationId = await checks.run(endpointId, () => compare(endpointId));
      if (operationId === undefined) return false;
      const ended = await queue.ended(operationId, signal);
      return ended.status === 'finished';
    },
  };
}
