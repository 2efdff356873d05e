/**
 * Handlers of the tag "Endpoint".
 */
import type {
  CreateProjectEndpointData,
  CreateProjectEndpointResponses,
  DeleteProjectEndpointData,
  DeleteProjectEndpointResponses,
  GetProjectEndpointData,
  GetProjectEndpointResponses,
  ListProjectEndpointsData,
  ListProjectEndpointsResponses,
  RestartProjectEndpointData,
  RestartProjectEndpointResponses,
  StartProjectEndpointData,
  StartProjectEndpointResponses,
  SuspendProjectEndpointData,
  SuspendProjectEndpointResponses,
  UpdateProjectEndpointData,
  UpdateProjectEndpointResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const endpointsHandlers: HandlerTable = {
  listProjectEndpoints: handler<ListProjectEndpointsData, ListProjectEndpointsResponses[200]>(
    (plane, { caller, params }) => plane.endpoints.list(caller, params.project_id),
  ),
  createProjectEndpoint: handler<CreateProjectEndpointData, CreateProjectEndpointResponses[201]>(
    (plane, { caller, params, body }) => plane.endpoints.create(caller, params.project_id, body),
  ),
  getProjectEndpoint: handler<GetProjectEndpointData, GetProjectEndpointResponses[200]>((plane, { caller, params }) =>
    plane.endpoints.get(caller, params.project_id, params.endpoint_id),
  ),
  updateProjectEndpoint: handler<UpdateProjectEndpointData, UpdateProjectEndpointResponses[200]>(
    (plane, { caller, params, body }) => plane.endpoints.update(caller, params.project_id, params.endpoint_id, body),
  ),
  deleteProjectEndpoint: handler<DeleteProjectEndpointData, DeleteProjectEndpointResponses[200]>(
    async (plane, { caller, params }) =>
      (await plane.endpoints.delete(caller, params.project_id, params.endpoint_id)) ?? { status: 204 },
  ),
  startProjectEndpoint: handler<StartProjectEndpointData, StartProjectEndpointResponses[200]>(
    (plane, { caller, params }) => plane.endpoints.start(caller, params.project_id, params.endpoint_id),
  ),
  suspendProjectEndpoint: handler<SuspendProjectEndpointData, SuspendProjectEndpointResponses[200]>(
    (plane, { caller, params }) => plane.endpoints.suspend(caller, params.project_id, params.endpoint_id),
  ),
  restartProjectEndpoint: handler<RestartProjectEndpointData, RestartProjectEndpointResponses[200]>(
    (plane, { caller, params }) => plane.endpoints.restart(caller, params.project_id, params.endpoint_id),
  ),
};
