/**
 * Handlers of the tag "Operation".
 */
import type {
  GetProjectOperationData,
  GetProjectOperationResponses,
  ListProjectOperationsData,
  ListProjectOperationsResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const operationsHandlers: HandlerTable = {
  getProjectOperation: handler<GetProjectOperationData, GetProjectOperationResponses[200]>(
    (plane, { caller, params }) => plane.operations.get(caller, params.project_id, params.operation_id),
  ),
  listProjectOperations: handler<ListProjectOperationsData, ListProjectOperationsResponses[200]>(
    (plane, { caller, params, query }) => plane.operations.list(caller, params.project_id, query),
  ),
};
