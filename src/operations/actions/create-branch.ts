/**
 * create_branch: a clone of a timeline at its head or at a point of its history, and where that was. Branches are made
 * this way, and branches that are restored.
 */
import { branchFailed, branchReady, timelineWork, type TimelineWork } from '../../catalog/transitions.ts';
import type { OperationRow } from '../../catalog/types.ts';
import { AppError } from '../../lib/errors.ts';
import type { Action } from '../types.ts';
import { branchOf, type ActionContext } from './context.ts';

/** Which timeline is cloned, and where; without an `lsn` its head. Written by control-plane when it appends. */
export interface CreateBranchPayload {
  parentTimelineId: string;
  lsn?: string;
}

export function createBranch({ catalog, storage, ownerOf }: ActionContext): Action {
  return {
    run: async (operation, signal) => {
      const branchId = branchOf(operation);
      const work = await timelineWork(catalog, branchId);
      if (!work) throw new AppError('not_found', 'branch not found');
      // The runner lets a parent's creation go first, so this one has failed.
      if (work.parentState === 'init') throw new AppError('unprocessable', 'the parent branch could not be created');
      const { parentTimelineId, lsn } = sourceOf(operation, work);
      const spec = {
        projectId: work.projectId,
        timelineId: work.timelineId,
        parentTimelineId,
        owner: ownerOf(work.projectNumber),
        point: lsn === undefined ? ({ kind: 'head' } as const) : ({ kind: 'lsn', lsn } as const),
      };
      const record = await storage.createChildTimeline(spec, signal);
      const { branchLsn: parentLsn, branchTimestamp: parentTimestamp } = record;
      return { transition: (tx) => branchReady(tx, { branchId, parentLsn, parentTimestamp }) };
    },
    undo: async (operation) => {
      const branchId = branchOf(operation);
      const work = await timelineWork(catalog, branchId);
      if (work) await storage.deleteTimeline(work);
      return { transition: (tx) => branchFailed(tx, branchId) };
    },
  };
}

/** Operations from before there was a payload mean the head of the parent. */
function sourceOf(operation: OperationRow, work: TimelineWork): CreateBranchPayload {
  const { parentTimelineId, lsn } = operation.payload as Partial<CreateBranchPayload>;
  const source = parentTimelineId ?? work.parentTimelineId;
  if (source === null) throw new AppError('unprocessable', 'the branch has no parent');
  return { parentTimelineId: source, ...(lsn !== undefined && { lsn }) };
}
