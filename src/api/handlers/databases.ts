/**
 * Handlers of the databases of a branch.
 */
import type {
  CreateProjectBranchDatabaseData,
  CreateProjectBranchDatabaseResponses,
  DeleteProjectBranchDatabaseData,
  DeleteProjectBranchDatabaseResponses,
  GetProjectBranchDatabaseData,
  GetProjectBranchDatabaseResponses,
  ListProjectBranchDatabasesData,
  ListProjectBranchDatabasesResponses,
  UpdateProjectBranchDatabaseData,
  UpdateProjectBranchDatabaseResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const databasesHandlers: HandlerTable = {
  listProjectBranchDatabases: handler<ListProjectBranchDatabasesData, ListProjectBranchDatabasesResponses[200]>(
    (plane, { caller, params }) => plane.databases.list(caller, params.project_id, params.branch_id),
  ),
  createProjectBranchDatabase: handler<CreateProjectBranchDatabaseData, CreateProjectBranchDatabaseResponses[201]>(
    (plane, { caller, params, body }) => plane.databases.create(caller, params.project_id, params.branch_id, body),
  ),
  getProjectBranchDatabase: handler<GetProjectBranchDatabaseData, GetProjectBranchDatabaseResponses[200]>(
    (plane, { caller, params }) =>
      plane.databases.get(caller, params.project_id, params.branch_id, params.database_name),
  ),
  updateProjectBranchDatabase: handler<UpdateProjectBranchDatabaseData, UpdateProjectBranchDatabaseResponses[200]>(
    (plane, { caller, params, body }) =>
      plane.databases.update(caller, params.project_id, params.branch_id, params.database_name, body),
  ),
  deleteProjectBranchDatabase: handler<DeleteProjectBranchDatabaseData, DeleteProjectBranchDatabaseResponses[200]>(
    async (plane, { caller, params }) =>
      (await plane.databases.delete(caller, params.project_id, params.branch_id, params.database_name)) ?? {
        status: 204,
      },
  ),
};
