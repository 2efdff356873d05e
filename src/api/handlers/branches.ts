/**
 * Handlers of the tag "Branch" that are about branches themselves.
 */
import type {
  CountProjectBranchesData,
  CountProjectBranchesResponses,
  CreateProjectBranchData,
  CreateProjectBranchResponses,
  DeleteProjectBranchData,
  DeleteProjectBranchResponses,
  GetProjectBranchData,
  GetProjectBranchResponses,
  ListProjectBranchEndpointsData,
  ListProjectBranchEndpointsResponses,
  ListProjectBranchesData,
  ListProjectBranchesResponses,
  RestoreProjectBranchData,
  RestoreProjectBranchResponses,
  GetProjectBranchSchemaComparisonData,
  GetProjectBranchSchemaComparisonResponses,
  GetProjectBranchSchemaData,
  GetProjectBranchSchemaResponses,
  SetDefaultProjectBranchData,
  SetDefaultProjectBranchResponses,
  UpdateProjectBranchData,
  UpdateProjectBranchResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const branchesHandlers: HandlerTable = {
  listProjectBranches: handler<ListProjectBranchesData, ListProjectBranchesResponses[200]>(
    (plane, { caller, params, query }) => plane.branches.list(caller, params.project_id, query),
  ),
  countProjectBranches: handler<CountProjectBranchesData, CountProjectBranchesResponses[200]>(
    (plane, { caller, params, query }) => plane.branches.count(caller, params.project_id, query),
  ),
  createProjectBranch: handler<CreateProjectBranchData, CreateProjectBranchResponses[201]>(
    (plane, { caller, params, body }) => plane.branches.create(caller, params.project_id, body),
  ),
  getProjectBranch: handler<GetProjectBranchData, GetProjectBranchResponses[200]>((plane, { caller, params }) =>
    plane.branches.get(caller, params.project_id, params.branch_id),
  ),
  updateProjectBranch: handler<UpdateProjectBranchData, UpdateProjectBranchResponses[200]>(
    (plane, { caller, params, body }) => plane.branches.update(caller, params.project_id, params.branch_id, body),
  ),
  deleteProjectBranch: handler<DeleteProjectBranchData, DeleteProjectBranchResponses[200]>(
    async (plane, { caller, params, query }) => {
      const hard = (query as { hard_delete?: boolean }).hard_delete === true;
      return (await plane.branches.delete(caller, params.project_id, params.branch_id, { hard })) ?? { status: 204 };
    },
  ),
  recoverProjectBranch: handler<GetProjectBranchData, unknown>((plane, { caller, params }) =>
    plane.branches.recover(caller, params.project_id, params.branch_id),
  ),
  restoreProjectBranch: handler<RestoreProjectBranchData, RestoreProjectBranchResponses[200]>(
    (plane, { caller, params, body }) => plane.branches.restore(caller, params.project_id, params.branch_id, body),
  ),
  resetProjectBranchToParent: handler<GetProjectBranchData, RestoreProjectBranchResponses[200]>(
    (plane, { caller, params }) => plane.branches.resetToParent(caller, params.project_id, params.branch_id),
  ),
  setDefaultProjectBranch: handler<SetDefaultProjectBranchData, SetDefaultProjectBranchResponses[200]>(
    (plane, { caller, params }) => plane.branches.setDefault(caller, params.project_id, params.branch_id),
  ),
  listProjectBranchEndpoints: handler<ListProjectBranchEndpointsData, ListProjectBranchEndpointsResponses[200]>(
    (plane, { caller, params }) => plane.endpoints.listOfBranch(caller, params.project_id, params.branch_id),
  ),
  getProjectBranchSchema: handler<GetProjectBranchSchemaData, GetProjectBranchSchemaResponses[200]>(
    (plane, { caller, params, query }) => plane.schemas.get(caller, params.project_id, params.branch_id, query),
  ),
  getProjectBranchSchemaComparison: handler<
    GetProjectBranchSchemaComparisonData,
    GetProjectBranchSchemaComparisonResponses[200]
  >((plane, { caller, params, query }) => plane.schemas.compare(caller, params.project_id, params.branch_id, query)),
};
