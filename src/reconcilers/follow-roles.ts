/**
 * Follows roles, passwords and databases that SQL made, changed or dropped.
 *
 * The activity poll carries a fingerprint of them. Where it is not the one that the rows are known to equal, the facts
 * are read and compared, and only a real difference becomes a sync_dbs_and_roles_from_compute operation.
 */
import type { CatalogDatabase } from '../catalog/database.ts';
import { lastUnfinishedOfEndpoint } from '../catalog/operations.ts';
import { endpointsByIds } from '../catalog/reconciling.ts';
import { differsFromFacts } from '../catalog/transitions.ts';
import type { ComputeActivity, Supervisor } from '../compute/types.ts';
import { KeyLock } from '../lib/key-lock.ts';
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

/** What one comparison found. `busy`: an operation is under way on the endpoint, and may be the cure. */
type Comparison = { found: 'same' } | { found: 'busy' | 'different'; operationId: string };

/** A check waits for that many operations of others before it gives up. */
const CHECK_ROUNDS = 3;

export function followRoles(options: FollowRolesOptions): FollowRoles {
  const { catalog, queue, supervisor, activity, syncedFingerprints } = options;
  // One after another and never shared: an answer must not be older than the question.
  const locks = new KeyLock();

  const compare = async (endpointId: string): Promise<Comparison> => {
    if (!supervisor.address(endpointId)) return { found: 'same' };
    const facts = await supervisor.rolesAndDatabases(endpointId);
    if (facts.fingerprint === syncedFingerprints.get(endpointId)) return { found: 'same' };
    const [endpoint] = await endpointsByIds(catalog, [endpointId]);
    if (!endpoint || endpoint.deleted || endpoint.type === 'read_only') return { found: 'same' };
    // What is under way on the branch settles its rows itself, or is looked at afterwards.
    if (endpoint.busy) {
      const operation = await lastUnfinishedOfEndpoint(catalog, endpointId);
      return operation ? { found: 'busy', operationId: operation.id } : { found: 'same' };
    }
    const { branchId, projectId } = endpoint;
    if (!(await differsFromFacts(catalog, branchId, facts))) {
      syncedFingerprints.set(endpointId, facts.fingerprint);
      return { found: 'same' };
    }
    const [operation] = await catalog.transaction((tx) =>
      queue.append(tx, [{ projectId, branchId, endpointId, action: 'sync_dbs_and_roles_from_compute' }]),
    );
    queue.poke();
    return { found: 'different', operationId: operation!.id };
  };

  return {
    name: 'follow-roles',
    everyMs: 1_000,
    run: async () => {
      for (const endpointId of supervisor.running()) {
        const seen = await activity(endpointId);
        if (!seen || seen.fingerprint === '' || seen.fingerprint === syncedFingerprints.get(endpointId)) continue;
        await locks.exclusive(endpointId, () => compare(endpointId));
      }
    },
    check: async (endpointId, signal) => {
      for (let round = 0; round < CHECK_ROUNDS; round += 1) {
        const comparison = await locks.exclusive(endpointId, () => compare(endpointId));
        if (comparison.found === 'same') return round > 0;
        const ended = await queue.ended(comparison.operationId, signal);
        if (comparison.found === 'different') return ended.status === 'finished';
      }
      return true;
    },
  };
}
