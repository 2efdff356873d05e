/**
 * create_timeline: the data of a root branch, cloned from the template of its major.
 */
import { branchFailed, branchReady, timelineWork } from '../../catalog/transitions.ts';
import { AppError } from '../../lib/errors.ts';
import type { Action } from '../types.ts';
import { branchOf, type ActionContext } from './context.ts';

export function createTimeline({ catalog, storage, ownerOf }: ActionContext): Action {
  return {
    run: async (operation) => {
      const branchId = branchOf(operation);
      const work = await timelineWork(catalog, branchId);
      if (!work) throw new AppError('not_found', 'branch not found');
      await storage.createRootTimeline({
        projectId: work.projectId,
        timelineId: work.timelineId,
        pgVersion: work.pgVersion,
        owner: ownerOf(work.projectNumber),
      });
      // The branch is ready once it has its schema.
      if (operation.payload['schemaFollows'] === true) return;
      return { transition: (tx) => branchReady(tx, { branchId, parentLsn: null, parentTimestamp: null }) };
    },
    undo: async (operation) => {
      const branchId = branchOf(operation);
      const work = await timelineWork(catalog, branchId);
      if (work) await storage.deleteTimeline(work);
      return { transition: (tx) => branchFailed(tx, branchId) };
    },
  };
}
