/**
 * Handlers of the tag "Project".
 */
import type {
  AddProjectJwksData,
  AddProjectJwksResponses,
  CreateProjectData,
  CreateProjectResponses,
  DeleteProjectData,
  DeleteProjectJwksData,
  DeleteProjectJwksResponses,
  DeleteProjectResponses,
  GetAvailablePreloadLibrariesData,
  GetAvailablePreloadLibrariesResponses,
  GetConnectionUriData,
  GetConnectionUriResponses,
  GetProjectData,
  GetProjectJwksData,
  GetProjectJwksResponses,
  GetProjectResponses,
  ListProjectsData,
  ListProjectsResponses,
  ListSharedProjectsData,
  ListSharedProjectsResponses,
  RecoverProjectData,
  RecoverProjectResponses,
  UpdateProjectData,
  UpdateProjectResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const projectsHandlers: HandlerTable = {
  listProjects: handler<ListProjectsData, ListProjectsResponses[200]>((plane, { caller, query }) =>
    plane.projects.list(caller, query),
  ),
  listSharedProjects: handler<ListSharedProjectsData, ListSharedProjectsResponses[200]>(async (plane, { caller }) =>
    plane.projects.listShared(caller),
  ),
  createProject: handler<CreateProjectData, CreateProjectResponses[201]>((plane, { caller, body }) =>
    plane.projects.create(caller, body),
  ),
  getProject: handler<GetProjectData, GetProjectResponses[200]>((plane, { caller, params }) =>
    plane.projects.get(caller, params.project_id),
  ),
  updateProject: handler<UpdateProjectData, UpdateProjectResponses[200]>((plane, { caller, params, body }) =>
    plane.projects.update(caller, params.project_id, body),
  ),
  deleteProject: handler<DeleteProjectData, DeleteProjectResponses[200]>((plane, { caller, params }) =>
    plane.projects.delete(caller, params.project_id),
  ),
  recoverProject: handler<RecoverProjectData, RecoverProjectResponses[200]>((plane, { caller, params }) =>
    plane.projects.recover(caller, params.project_id),
  ),
  getProjectLimits: handler<GetProjectData, { limits: Record<string, number> }>((plane, { caller, params }) =>
    plane.projects.limits(caller, params.project_id),
  ),
  getConnectionURI: handler<GetConnectionUriData, GetConnectionUriResponses[200]>((plane, { caller, params, query }) =>
    plane.connectionUri.get(caller, params.project_id, query),
  ),
  getAvailablePreloadLibraries: handler<GetAvailablePreloadLibrariesData, GetAvailablePreloadLibrariesResponses[200]>(
    (plane, { caller, params }) => plane.projects.preloadLibraries(caller, params.project_id),
  ),
  getProjectJWKS: handler<GetProjectJwksData, GetProjectJwksResponses[200]>((plane, { caller, params }) =>
    plane.jwks.list(caller, params.project_id),
  ),
  addProjectJWKS: handler<AddProjectJwksData, AddProjectJwksResponses[201]>((plane, { caller, params, body }) =>
    plane.jwks.add(caller, params.project_id, body),
  ),
  deleteProjectJWKS: handler<DeleteProjectJwksData, DeleteProjectJwksResponses[200]>((plane, { caller, params }) =>
    plane.jwks.delete(caller, params.project_id, params.jwks_id),
  ),
};
