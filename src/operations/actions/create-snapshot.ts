/**
 * create_branch with a `snapshotId`: a clone of the source branch that is never started. It is a branch only to storage.
 */
import { recordSnapshotSizes, snapshotFailed, snapshotReady, snapshotWork } from '../../catalog/snapshots.ts';
import type { OperationRow } from '../../catalog/types.ts';
import { AppError } from '../../lib/errors.ts';
import type { Action } from '../types.ts';
import type { ActionContext } from './context.ts';

export interface CreateSnapshotPayload {
  snapshotId: string;
  parentTimelineId: string;
  lsn?: string;
}

export function makesSnapshot(operation: OperationRow): boolean {
  return operation.payload['snapshotId'] !== undefined;
}

export function createSnapshot({ catalog, storage, background, ownerOf }: ActionContext): Action {
  return {
    run: async (operation, signal) => {
      const { snapshotId, parentTimelineId, lsn } = payloadOf(operation);
      const work = await snapshotWork(catalog, snapshotId);
      if (!work) throw new AppError('not_found', 'snapshot not found');
      if (work.deleted) return { skip: true };
      const { projectId, timelineId } = work;
      const record = await storage.createChildTimeline(
        {
          projectId,
          timelineId,
          parentTimelineId,
          owner: ownerOf(work.projectNumber),
          point: lsn === undefined ? { kind: 'head' } : { kind: 'lsn', lsn },
          kind: 'snapshot',
        },
        signal,
      );
      const measure = async (): Promise<void> => {
        const { logicalBytes } = await storage.size({ projectId, timelineId });
        const ownBytes = await storage.ownBytes({ projectId, timelineId });
        await recordSnapshotSizes(catalog, snapshotId, { fullBytes: logicalBytes, ownBytes });
      };
      background.run(`measure-snapshot ${snapshotId}`, measure);
      return {
        transition: (tx) =>
          snapshotReady(tx, { id: snapshotId, lsn: record.branchLsn, pointTimestamp: record.branchTimestamp }),
      };
    },
    undo: async (operation) => {
      const { snapshotId } = payloadOf(operation);
      const work = await snapshotWork(catalog, snapshotId);
      if (work) await storage.deleteTimeline(work);
      return { transition: (tx) => snapshotFailed(tx, snapshotId) };
    },
  };
}

function payloadOf(operation: OperationRow): CreateSnapshotPayload {
  return operation.payload as unknown as CreateSnapshotPayload;
}
