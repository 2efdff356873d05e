/**
 * `connection_uri`: a ready URI for a role and a database, of the default branch and its read-write endpoint unless
 * others are named.
 */
import type { GetConnectionUriData, GetConnectionUriResponses } from '@neon/sdk/raw';
import { findBranch, findDefaultBranch } from '../catalog/branches.ts';
import { findDatabase } from '../catalog/databases.ts';
import { listBranchEndpoints } from '../catalog/endpoints.ts';
import { findRole } from '../catalog/roles.ts';
import type { Caller } from './caller.ts';
import { readProject, type Context } from './context.ts';
import { branchNotFound, databaseNotFound, endpointNotFound, roleNotFound } from './errors.ts';
import { connectionUri } from './hosts.ts';
import { openPassword } from './roles.ts';

export interface ConnectionUri {
  get(caller: Caller, projectId: string, query: GetConnectionUriData['query']): Promise<GetConnectionUriResponses[200]>;
}

export function createConnectionUri(context: Context): ConnectionUri {
  return {
    get: async (caller, projectId, query) => {
      const project = await readProject(context, caller, projectId);
      const branch =
        query.branch_id === undefined
          ? await findDefaultBranch(context.catalog, projectId)
          : await findBranch(context.catalog, projectId, query.branch_id);
      if (!branch) throw branchNotFound();
      const endpoints = await listBranchEndpoints(context.catalog, branch.id);
      const endpoint =
        query.endpoint_id === undefined
          ? (endpoints.find((row) => row.type === 'read_write') ?? endpoints[0])
          : endpoints.find((row) => row.id === query.endpoint_id);
      if (!endpoint) throw endpointNotFound();
      const role = await findRole(context.catalog, branch.id, query.role_name);
      if (!role) throw roleNotFound();
      const database = await findDatabase(context.catalog, branch.id, query.database_name);
      if (!database) throw databaseNotFound();
      return {
        uri: connectionUri(context.config, {
          endpointId: endpoint.id,
          role: role.name,
          password: openPassword(context, project, role),
          database: database.name,
          pooled: query.pooled ?? false,
        }),
      };
    },
  };
}
