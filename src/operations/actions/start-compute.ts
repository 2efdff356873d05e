/**
 * start_compute: Postgres of an endpoint, with whatever is pending on its branch applied before clients enter.
 *
 * This is what a client waits for when it wakes a compute, so the path is one read, the start, and one transaction.
 */
import {
  computeWork,
  endpointActive,
  endpointIs,
  recordFacts,
  roleNames,
  settlePending,
  type ComputeWork,
} from '../../catalog/transitions.ts';
import type { RolesAndDatabases } from '../../compute/types.ts';
import { AppError, isAppError } from '../../lib/errors.ts';
import { newPassword } from '../../lib/ids.ts';
import { startStopwatch, type Stopwatch } from '../../lib/stopwatch.ts';
import { buildVerifier } from '../../postgres/wire/scram.ts';
import type { Action } from '../types.ts';
import { computeSpec, endpointOf, pendingChanges, type ActionContext } from './context.ts';

export function startCompute(context: ActionContext): Action {
  const { catalog, supervisor, syncedFingerprints } = context;
  return {
    run: async (operation) => {
      const endpointId = endpointOf(operation);
      const watch = startStopwatch();
      const work = await computeWork(catalog, endpointId);
      if (!work) throw new AppError('not_found', 'endpoint not found');
      if (work.type === 'read_only') {
        await startWith(context, work, watch);
        watch.lap('configure');
        return { phases: watch.laps, transition: (tx) => endpointActive(tx, endpointId) };
      }
      const applied = await startAnyway(context, work, watch);
      // A new branch's rows are a copy of what its parent's said; SQL may have changed the parent a moment before.
      const facts = work.factsDue ? await firstFacts(context, work) : undefined;
      watch.lap('configure');
      return {
        phases: watch.laps,
        transition: async (tx) => {
          await settlePending(tx, work.branchId, applied);
          if (facts) {
            await recordFacts(tx, work, facts);
            syncedFingerprints.set(endpointId, facts.fingerprint);
          }
          await endpointActive(tx, endpointId);
        },
      };
    },
    undo: async (operation) => {
      const endpointId = endpointOf(operation);
      await supervisor.suspend(endpointId);
      syncedFingerprints.delete(endpointId);
      return { transition: (tx) => endpointIs(tx, endpointId, 'idle') };
    },
  };
}

/**
 * What the data says of roles and databases. In a child of a protected branch, a role that the rows do not know still has
 * the password of the parent; nobody can log in as one that the rows do not know, so there is time to take it away.
 */
async function firstFacts(context: ActionContext, work: ComputeWork): Promise<RolesAndDatabases> {
  const { catalog, supervisor } = context;
  const facts = await supervisor.rolesAndDatabases(work.endpointId);
  if (!work.parentProtected) return facts;
  const known = await roleNames(catalog, work.branchId);
  const strangers = facts.roles.filter(({ name, verifier }) => verifier !== null && !known.has(name));
  if (strangers.length === 0) return facts;
  const changes = strangers.map(async ({ name }) => ({
    kind: 'set_verifier' as const,
    name,
    verifier: await buildVerifier(newPassword()),
  }));
  await supervisor.applyChanges(work.endpointId, await Promise.all(changes));
  return supervisor.rolesAndDatabases(work.endpointId);
}

/**
 * A change that Postgres refuses must not keep a branch asleep for ever: then it starts without, and the rows stay
 * pending. Returns what was applied.
 */
async function startAnyway(
  context: ActionContext,
  work: ComputeWork,
  watch: Stopwatch,
): Promise<Pick<ComputeWork, 'roles' | 'databases'>> {
  try {
    await startWith(context, work, watch);
    return work;
  } catch (error) {
    const none = { roles: [], databases: [] };
    // 'unavailable' is about the compute itself; everything else came from a change.
    if (pendingChanges(work).length === 0 || isAppError(error, 'unavailable')) throw error;
    await startWith(context, { ...work, ...none }, watch);
    context.logger.warn(
      { err: error, endpoint: work.endpointId },
      'pending changes were refused; the compute started without them',
    );
    return none;
  }
}

/**
 * Starts (or restarts, when the settings differ) and applies what is pending, which a read replica gets from its
 * primary. Shared with apply_config.
 */
export async function startWith(context: ActionContext, work: ComputeWork, watch?: Stopwatch): Promise<void> {
  if (work.branchState === 'init') throw new AppError('unprocessable', 'the branch could not be created');
  if (context.poolIsFull()) {
    throw new AppError(
      'unprocessable',
      'the storage pool is full; delete branches or make the pool larger, then start again',
    );
  }
  // What SQL changed while nobody looked is found by comparing again.
  context.syncedFingerprints.delete(work.endpointId);
  const changes = work.type === 'read_only' ? [] : pendingChanges(work);
  await context.supervisor.start(computeSpec(work, context), changes, watch);
  context.appliedAtMs.set(work.endpointId, performance.now());
}
