/**
 * suspend_compute: notes what SQL changed, then stops Postgres cleanly.
 *
 * `payload.idleOnly` is how a suspend for idleness says that it must not cut a client that has come meanwhile.
 * `payload.ran` says whose data the compute runs on when its endpoint belongs to another branch by now.
 * Storage tidies up afterwards in the background: neither the operation's end nor the next start waits for it.
 */
import { recordLogicalSize } from '../../catalog/reconciling.ts';
import { computeWork, endpointIdle, endpointIs, recordFacts } from '../../catalog/transitions.ts';
import type { OperationRow } from '../../catalog/types.ts';
import type { RolesAndDatabases } from '../../compute/types.ts';
import type { Action } from '../types.ts';
import { endpointOf, type ActionContext } from './context.ts';

/** How recently a client must have done something to count as having come back. */
const RECENT_MS = 500;
/** A client that was cut may be about to come back, and its wake should have the machine to itself. */
const TIDY_UP_AFTER_MS = 1_000;
/** Idle times are whole milliseconds. */
const CLOCK_STEP_MS = 2;

export interface SuspendComputePayload {
  idleOnly?: boolean;
  ran?: { branchId: string; timelineId: string };
}

export function suspendCompute(context: ActionContext): Action {
  const { catalog, supervisor, storage, background, syncedFingerprints, appliedAtMs: appliedAtMsOf, logger } = context;

  const isInUse = async (operation: OperationRow, endpointId: string): Promise<boolean> => {
    if (operation.payload['idleOnly'] !== true) return false;
    const activity = await supervisor.activity(endpointId);
    if (activity === undefined) return false;
    const lastUsedAtMs = performance.now() - activity.idleMs;
    const appliedAtMs = appliedAtMsOf.get(endpointId) ?? Number.NEGATIVE_INFINITY;
    return activity.busy || (activity.idleMs < RECENT_MS && lastUsedAtMs > appliedAtMs + CLOCK_STEP_MS);
  };
  const lastFacts = async (endpointId: string): Promise<RolesAndDatabases | undefined> => {
    if (!supervisor.address(endpointId)) return undefined;
    try {
      return await supervisor.rolesAndDatabases(endpointId);
    } catch (error) {
      // Suspending a compute that does not answer any more matters more than what it would say.
      logger.warn({ err: error, endpoint: endpointId }, 'roles and databases could not be read before suspending');
      return undefined;
    }
  };

  return {
    run: async (operation) => {
      const endpointId = endpointOf(operation);
      if (await isInUse(operation, endpointId)) {
        supervisor.note(endpointId, ['not suspended after all: a client came back']);
        return { skip: true, transition: (tx) => endpointIs(tx, endpointId, 'active') };
      }
      const row = await computeWork(catalog, endpointId);
      const work = row && { ...row, ...(operation.payload as SuspendComputePayload).ran };
      // What a read replica says of roles is its primary's to say.
      const isReplica = work?.type === 'read_only';
      const facts = isReplica ? undefined : await lastFacts(endpointId);
      const idleOnly = operation.payload['idleOnly'] === true;
      if (!idleOnly && supervisor.address(endpointId)) supervisor.note(endpointId, ['suspending: by an operation']);
      await supervisor.suspend(endpointId);
      syncedFingerprints.delete(endpointId);
      appliedAtMsOf.delete(endpointId);
      if (work && !isReplica) {
        const timeline = { projectId: work.projectId, timelineId: work.timelineId };
        const tidyUp = async (): Promise<void> => {
          if (supervisor.address(endpointId)) return;
          await storage.afterSuspend(timeline);
          const { logicalBytes } = await storage.size(timeline);
          await recordLogicalSize(catalog, work.branchId, logicalBytes);
        };
        background.run(`after-suspend ${work.branchId}`, tidyUp, { delayMs: TIDY_UP_AFTER_MS });
      }
      return {
        transition: async (tx) => {
          if (work && facts) await recordFacts(tx, work, facts);
          await endpointIdle(tx, endpointId);
        },
      };
    },
    undo: async (operation) => {
      const endpointId = endpointOf(operation);
      const state = supervisor.address(endpointId) ? 'active' : 'idle';
      return { transition: (tx) => endpointIs(tx, endpointId, state) };
    },
  };
}
