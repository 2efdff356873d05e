/**
 * Handlers of the tag "Snapshot", and the end of a restore, which has the tag "Branch".
 */
import type {
  CreateSnapshotData,
  CreateSnapshotResponses,
  DeleteSnapshotData,
  DeleteSnapshotResponses,
  FinalizeRestoreBranchData,
  FinalizeRestoreBranchResponses,
  GetSnapshotScheduleData,
  GetSnapshotScheduleResponses,
  ListSnapshotsData,
  ListSnapshotsResponses,
  RestoreSnapshotData,
  RestoreSnapshotResponses,
  SetSnapshotScheduleData,
  SetSnapshotScheduleResponses,
  UpdateSnapshotData,
  UpdateSnapshotResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const snapshotsHandlers: HandlerTable = {
  listSnapshots: handler<ListSnapshotsData, ListSnapshotsResponses[200]>((plane, { caller, params }) =>
    plane.snapshots.list(caller, params.project_id),
  ),
  createSnapshot: handler<CreateSnapshotData, CreateSnapshotResponses[200]>((plane, { caller, params, query }) =>
    plane.snapshots.create(caller, params.project_id, params.branch_id, query),
  ),
  updateSnapshot: handler<UpdateSnapshotData, UpdateSnapshotResponses[200]>((plane, { caller, params, body }) =>
    plane.snapshots.update(caller, params.project_id, params.snapshot_id, body),
  ),
  deleteSnapshot: handler<DeleteSnapshotData, DeleteSnapshotResponses[202]>((plane, { caller, params }) =>
    plane.snapshots.delete(caller, params.project_id, params.snapshot_id),
  ),
  restoreSnapshot: handler<RestoreSnapshotData, RestoreSnapshotResponses[200]>(
    (plane, { caller, params, query, body }) =>
      // The name was in the query once.
      plane.snapshots.restoreSnapshot(caller, params.project_id, params.snapshot_id, { name: query.name, ...body }),
  ),
  finalizeRestoreBranch: handler<FinalizeRestoreBranchData, FinalizeRestoreBranchResponses[200]>(
    (plane, { caller, params, body }) =>
      plane.snapshots.finalizeRestore(caller, params.project_id, params.branch_id, body?.name),
  ),
  getSnapshotSchedule: handler<GetSnapshotScheduleData, GetSnapshotScheduleResponses[200]>(
    (plane, { caller, params }) => plane.backupSchedules.get(caller, params.project_id, params.branch_id),
  ),
  setSnapshotSchedule: handler<SetSnapshotScheduleData, SetSnapshotScheduleResponses[200]>(
    (plane, { caller, params, body }) => plane.backupSchedules.set(caller, params.project_id, params.branch_id, body),
  ),
};
