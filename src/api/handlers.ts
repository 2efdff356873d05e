/**
 * All handlers by operationId. An operation that is in none of these tables answers 501 and says so in
 * openapi/ledger.json.
 */
import type { HandlerTable } from './handler.ts';
import { apiKeysHandlers } from './handlers/api-keys.ts';
import { branchesHandlers } from './handlers/branches.ts';
import { databasesHandlers } from './handlers/databases.ts';
import { endpointsHandlers } from './handlers/endpoints.ts';
import { operationsHandlers } from './handlers/operations.ts';
import { projectsHandlers } from './handlers/projects.ts';
import { rolesHandlers } from './handlers/roles.ts';
import { snapshotsHandlers } from './handlers/snapshots.ts';
import { usersHandlers } from './handlers/users.ts';

export const handlers: HandlerTable = merge(
  apiKeysHandlers,
  projectsHandlers,
  branchesHandlers,
  endpointsHandlers,
  databasesHandlers,
  rolesHandlers,
  operationsHandlers,
  snapshotsHandlers,
  usersHandlers,
);

function merge(...tables: HandlerTable[]): HandlerTable {
  const merged: HandlerTable = {};
  for (const [operationId, handle] of tables.flatMap((table) => Object.entries(table))) {
    if (Object.hasOwn(merged, operationId)) throw new Error(`two handlers for ${operationId}`);
    merged[operationId] = handle;
  }
  return merged;
}
