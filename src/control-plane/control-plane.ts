/**
 * The product's rules, one group per resource. Every method takes the caller and what the API's document says about
 * the request, and answers in the document's shapes; it throws AppErrors with texts for the client.
 * Nothing here acts: rows and operations are written, and the runner is poked.
 */
import { readOperations } from '../catalog/operations.ts';
import { findProjects } from '../catalog/projects.ts';
import { KeyLock } from '../lib/key-lock.ts';
import { createApiKeys, type ApiKeys } from './api-keys.ts';
import { createBackupSchedules, type BackupSchedules } from './backup-schedules.ts';
import { createBatchedLookup } from './batch.ts';
import { createBranchDeletion, type BranchDeletion } from './branch-deletion.ts';
import { createBranches, type Branches } from './branches.ts';
import { createConnectionUri, type ConnectionUri } from './connection-uri.ts';
import type { Context, ControlPlaneDependencies } from './context.ts';
import { createDatabases, type Databases } from './databases.ts';
import { createEndpoints, type Endpoints } from './endpoints.ts';
import { createJwks, type JwksRules } from './jwks.ts';
import { createOperations, type Operations } from './operations.ts';
import { createOrganizations, type Organizations } from './organizations.ts';
import { createProjectDeletion, type ProjectDeletion } from './project-deletion.ts';
import { createProjects, type Projects } from './projects.ts';
import { createRestores, type Restores } from './restore.ts';
import { createRoles, type Roles } from './roles.ts';
import { createSchemas, type Schemas } from './schema.ts';
import { createSnapshotRestores, type SnapshotRestores } from './snapshot-restore.ts';
import { createSnapshots, type Snapshots } from './snapshots.ts';
import { createUsers, type Users } from './users.ts';

export interface ControlPlane {
  apiKeys: ApiKeys;
  projects: Projects & ProjectDeletion;
  branches: Branches & BranchDeletion & Restores;
  endpoints: Endpoints;
  snapshots: Snapshots & SnapshotRestores;
  backupSchedules: BackupSchedules;
  databases: Databases;
  roles: Roles;
  jwks: JwksRules;
  schemas: Schemas;
  operations: Operations;
  users: Users;
  organizations: Organizations;
  connectionUri: ConnectionUri;
  /** Writes what is still in memory. Call it before the catalog closes. */
  close(): Promise<void>;
}

export function createControlPlane(dependencies: ControlPlaneDependencies): ControlPlane {
  const { catalog } = dependencies;
  const context: Context = {
    ...dependencies,
    onProjectChanged: (projectId) => dependencies.onProjectChanged?.(projectId),
    now: () => dependencies.now?.() ?? new Date(),
    changes: new KeyLock(),
    findProject: createBatchedLookup((ids) => findProjects(catalog, ids)),
    findOperation: createBatchedLookup(async (ids) => {
      const rows = await readOperations(catalog, ids);
      return new Map(rows.map((row) => [row.id, row]));
    }),
  };
  const apiKeys = createApiKeys(context);
  return {
    apiKeys,
    projects: { ...createProjects(context), ...createProjectDeletion(context) },
    branches: { ...createBranches(context), ...createBranchDeletion(context), ...createRestores(context) },
    endpoints: createEndpoints(context),
    snapshots: { ...createSnapshots(context), ...createSnapshotRestores(context) },
    backupSchedules: createBackupSchedules(context),
    databases: createDatabases(context),
    roles: createRoles(context),
    jwks: createJwks(context),
    schemas: createSchemas(context),
    operations: createOperations(context),
    users: createUsers(context),
    organizations: createOrganizations(context),
    connectionUri: createConnectionUri(context),
    close: () => apiKeys.close(),
  };
}
