/**
 * create_branch: a clone of the parent's data at its head, and where that was.
 */
import { branchFailed, branchReady, timelineWork } from '../../catalog/transitions.ts';
import { AppError } from '../../lib/errors.ts';
import type { Action } from '../types.ts';
import { branchOf, type ActionContext } from './context.ts';

export function createBranch({ catalog, storage, ownerOf }: ActionContext): Action {
  return {
    run: async (operation, signal) => {
      const branchId = branchOf(operation);
      const work = await timelineWork(catalog, branchId);
      if (!work) throw new AppError('not_found', 'branch not found');
      if (work.parentId === null) throw new AppError('unprocessable', 'the branch has no parent');
      // The runner lets a parent's creation go first, so this one has failed.
      if (work.parentState === 'init') throw new AppError('unprocessable', 'the parent branch could not be created');
      const spec = {
        projectId: work.projectId,
        branchId,
        parentBranchId: work.parentId,
        owner: ownerOf(work.projectNumber),
        point: { kind: 'head' },
      } as const;
      const record = await storage.createChildTimeline(spec, signal);
      const { branchLsn: parentLsn, branchTimestamp: parentTimestamp } = record;
      return { transition: (tx) => branchReady(tx, { branchId, parentLsn, parentTimestamp }) };
    },
    undo: async (operation) => {
      const branchId = branchOf(operation);
      await storage.deleteTimeline({ projectId: operation.projectId, branchId });
      return { transition: (tx) => branchFailed(tx, branchId) };
    },
  };
}
