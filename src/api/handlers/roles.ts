/**
 * Handlers of the roles of a branch.
 */
import type {
  CreateProjectBranchRoleData,
  CreateProjectBranchRoleResponses,
  DeleteProjectBranchRoleData,
  DeleteProjectBranchRoleResponses,
  GetProjectBranchRoleData,
  GetProjectBranchRolePasswordData,
  GetProjectBranchRolePasswordResponses,
  GetProjectBranchRoleResponses,
  ListProjectBranchRolesData,
  ListProjectBranchRolesResponses,
  ResetProjectBranchRolePasswordData,
  ResetProjectBranchRolePasswordResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const rolesHandlers: HandlerTable = {
  listProjectBranchRoles: handler<ListProjectBranchRolesData, ListProjectBranchRolesResponses[200]>(
    (plane, { caller, params }) => plane.roles.list(caller, params.project_id, params.branch_id),
  ),
  createProjectBranchRole: handler<CreateProjectBranchRoleData, CreateProjectBranchRoleResponses[201]>(
    (plane, { caller, params, body }) => plane.roles.create(caller, params.project_id, params.branch_id, body),
  ),
  getProjectBranchRole: handler<GetProjectBranchRoleData, GetProjectBranchRoleResponses[200]>(
    (plane, { caller, params }) => plane.roles.get(caller, params.project_id, params.branch_id, params.role_name),
  ),
  deleteProjectBranchRole: handler<DeleteProjectBranchRoleData, DeleteProjectBranchRoleResponses[200]>(
    async (plane, { caller, params }) =>
      (await plane.roles.delete(caller, params.project_id, params.branch_id, params.role_name)) ?? { status: 204 },
  ),
  getProjectBranchRolePassword: handler<GetProjectBranchRolePasswordData, GetProjectBranchRolePasswordResponses[200]>(
    (plane, { caller, params }) =>
      plane.roles.revealPassword(caller, params.project_id, params.branch_id, params.role_name),
  ),
  resetProjectBranchRolePassword: handler<
    ResetProjectBranchRolePasswordData,
    ResetProjectBranchRolePasswordResponses[200]
  >((plane, { caller, params }) =>
    plane.roles.resetPassword(caller, params.project_id, params.branch_id, params.role_name),
  ),
};
