/**
 * delete_timeline: data that no row stands for any more, and the computes on it, if any still run.
 *
 * `payload.timelineIds` names what a restore has replaced, or a deleted snapshot; without it the data of the deleted
 * branch itself goes. There is no way back: after the last try the row stays deleted, and the reconciler that compares
 * the pool with the rows tries again later.
 */
import { timelineInUse, timelineWork } from '../../catalog/transitions.ts';
import type { Action } from '../types.ts';
import { branchOf, type ActionContext } from './context.ts';

export interface DeleteTimelinePayload {
  timelineIds?: string[];
  /** Everything else of the project goes as well. */
  wholeProject?: true;
}

export function deleteTimeline({ catalog, storage, supervisor, syncedFingerprints }: ActionContext): Action {
  return {
    run: async (operation) => {
      const { projectId } = operation;
      const { timelineIds, wholeProject = false } = operation.payload as DeleteTimelinePayload;
      const how = { withDependents: wholeProject };
      if (timelineIds) {
        for (const timelineId of timelineIds) {
          // The restore that was to replace it has failed.
          if (await timelineInUse(catalog, timelineId)) continue;
          await storage.deleteTimeline({ projectId, timelineId }, how);
        }
        return;
      }
      const work = await timelineWork(catalog, branchOf(operation));
      for (const endpointId of work?.endpointIds ?? []) {
        await supervisor.suspend(endpointId);
        syncedFingerprints.delete(endpointId);
      }
      if (work) await storage.deleteTimeline(work, how);
    },
    undo: async () => undefined,
  };
}
