/**
 * create_branch: a clone of a timeline at its head or at a point of its history, and where that was. Branches are made
 * this way, branches that are restored (those get the clone in the place of their data once it is there, and keep what
 * they have when it cannot be made), and snapshots (create-snapshot.ts).
 */
import { endRestore, undoRestore, type RestorePayload } from '../../catalog/restores.ts';
import { undoReplacement, type Replacement } from '../../catalog/snapshot-restores.ts';
import { branchFailed, branchReady, timelineWork, type TimelineWork } from '../../catalog/transitions.ts';
import type { OperationRow } from '../../catalog/types.ts';
import { AppError } from '../../lib/errors.ts';
import type { Action } from '../types.ts';
import { branchOf, type ActionContext } from './context.ts';
import { createSnapshot, makesSnapshot } from './create-snapshot.ts';

/** Which timeline is cloned, and where; without an `lsn` its head. Written by control-plane when it appends. */
export interface CreateBranchPayload {
  parentTimelineId: string;
  lsn?: string;
  /** The branch begins its life archived. */
  archived?: boolean;
  /** The branch is there already, and is restored. */
  restore?: RestorePayload;
  /** It takes the place of another branch from the request on; without the data everything moves back. */
  replacement?: Replacement;
}

export function createBranch(context: ActionContext): Action {
  const { catalog, storage, supervisor, syncedFingerprints, ownerOf } = context;
  const snapshots = createSnapshot(context);
  return {
    run: async (operation, signal) => {
      if (makesSnapshot(operation)) return snapshots.run(operation, signal);
      const branchId = branchOf(operation);
      const work = await timelineWork(catalog, branchId);
      if (!work) throw new AppError('not_found', 'branch not found');
      // The runner lets a parent's creation go first, so this one has failed.
      if (work.parentState === 'init') throw new AppError('unprocessable', 'the parent branch could not be created');
      const { parentTimelineId, lsn, archived = false, restore } = payloadOf(operation, work);
      if (restore) {
        // A compute may have been woken for a moment by work that came before.
        for (const endpointId of work.endpointIds) {
          if (supervisor.address(endpointId)) await supervisor.suspend(endpointId);
          syncedFingerprints.delete(endpointId);
        }
      }
      const spec = {
        projectId: work.projectId,
        timelineId: restore?.timelineId ?? work.timelineId,
        parentTimelineId,
        owner: ownerOf(work.projectNumber),
        point: lsn === undefined ? ({ kind: 'head' } as const) : ({ kind: 'lsn', lsn } as const),
      };
      const record = await storage.createChildTimeline(spec, signal);
      // A root that was made from a snapshot has no parent to have left.
      const isRoot = work.parentId === null && !restore;
      const parentLsn = isRoot ? null : record.branchLsn;
      const parentTimestamp = isRoot ? null : record.branchTimestamp;
      const place = { branchId, parentLsn, parentTimestamp };
      return {
        transition: (tx) =>
          restore
            ? endRestore(tx, { ...place, restore, asked: operation.createdAt })
            : branchReady(tx, { ...place, archived }),
      };
    },
    undo: async (operation) => {
      if (makesSnapshot(operation)) return snapshots.undo(operation);
      const branchId = branchOf(operation);
      const { restore, replacement } = operation.payload as Partial<CreateBranchPayload>;
      const work = await timelineWork(catalog, branchId);
      if (work) await storage.deleteTimeline({ ...work, timelineId: restore?.timelineId ?? work.timelineId });
      return {
        transition: async (tx) => {
          if (restore) return undoRestore(tx, branchId, restore);
          if (!replacement) return branchFailed(tx, branchId);
          await undoReplacement(tx, { branchId, operationId: operation.id, replacement });
        },
      };
    },
  };
}

/** Operations from before there was a payload mean the head of the parent. */
function payloadOf(operation: OperationRow, work: TimelineWork): CreateBranchPayload {
  const payload = operation.payload as Partial<CreateBranchPayload>;
  const parentTimelineId = payload.parentTimelineId ?? work.parentTimelineId;
  if (parentTimelineId === null) throw new AppError('unprocessable', 'the branch has no parent');
  return { ...payload, parentTimelineId };
}
