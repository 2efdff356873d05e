/**
 * delete_timeline: a deleted branch's computes, if any still run, and its data.
 *
 * There is no way back: after the last try the branch stays deleted, and the reconciler that compares the pool with
 * the rows tries again later.
 */
import { timelineWork } from '../../catalog/transitions.ts';
import type { Action } from '../types.ts';
import { branchOf, type ActionContext } from './context.ts';

export function deleteTimeline({ catalog, storage, supervisor, syncedFingerprints }: ActionContext): Action {
  return {
    run: async (operation) => {
      const branchId = branchOf(operation);
      const work = await timelineWork(catalog, branchId);
      for (const endpointId of work?.endpointIds ?? []) {
        await supervisor.suspend(endpointId);
        syncedFingerprints.delete(endpointId);
      }
      await storage.deleteTimeline({ projectId: operation.projectId, branchId });
    },
    undo: async () => undefined,
  };
}
