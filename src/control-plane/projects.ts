/**
 * Projects: made with a root branch, its endpoint, a role and a database; listed, changed, deleted.
 */
import type {
  CreateProjectResponses,
  GetAvailablePreloadLibrariesResponses,
  GetProjectResponses,
  ListProjectsData,
  ListProjectsResponses,
  ListSharedProjectsResponses,
  ProjectCreateRequest,
  ProjectSettingsData,
  ProjectUpdateRequest,
  UpdateProjectResponses,
} from '@neon/sdk/raw';
import { insertBranch } from '../catalog/branches.ts';
import { insertDatabase } from '../catalog/databases.ts';
import { insertEndpoint, listProjectEndpoints, setEndpointPendingState } from '../catalog/endpoints.ts';
import { findDefaultOrganization, findOrganization } from '../catalog/organizations.ts';
import {
  countProjects,
  insertProject,
  listProjects,
  projectEverExisted,
  updateProject,
  type NewProject,
} from '../catalog/projects.ts';
import { insertRole } from '../catalog/roles.ts';
import type { JsonObject, ProjectRow, Queryable } from '../catalog/types.ts';
import { newBranchId, newProjectId } from '../lib/ids.ts';
import { AppError } from '../lib/errors.ts';
import type { NewOperation } from '../operations/types.ts';
import { assertNotProjectKey, assertPersonalKey } from './access.ts';
import type { Caller } from './caller.ts';
import { resolveDefaultEndpointSettings } from './compute-settings.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { isAwake, planEndpoint } from './endpoint-rules.ts';
import { invalidRequest, organizationNotFound, unprocessable } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateDatabaseName, validateDisplayName, validateRoleName } from './names.ts';
import { makePassword, type RolePassword } from './passwords.ts';
import {
  presentBranch,
  presentConnectionDetails,
  presentDatabase,
  presentEndpoint,
  presentOperation,
  presentProject,
  presentProjectDetails,
  presentProjectListItem,
  presentRole,
} from './present.ts';
import { resolveProjectSettings } from './project-settings.ts';
import { OWN_REGION } from './users.ts';

type ListQuery = NonNullable<ListProjectsData['query']>;

export interface Projects {
  list(caller: Caller, query: ListQuery): Promise<ListProjectsResponses[200]>;
  listShared(caller: Caller): ListSharedProjectsResponses[200];
  create(caller: Caller, body: ProjectCreateRequest): Promise<CreateProjectResponses[201]>;
  get(caller: Caller, id: string): Promise<GetProjectResponses[200]>;
  update(caller: Caller, id: string, body: ProjectUpdateRequest): Promise<UpdateProjectResponses[200]>;
  /** -1: none. */
  limits(caller: Caller, id: string): Promise<{ limits: Record<string, number> }>;
  preloadLibraries(caller: Caller, id: string): Promise<GetAvailablePreloadLibrariesResponses[200]>;
}

const PRESENTED_LIMITS = {
  max_projects: LIMITS.projects,
  max_branches: LIMITS.branchesPerProject,
  max_protected_branches: -1,
  max_read_only_endpoints: -1,
  max_active_endpoints: -1,
  max_roles: LIMITS.rolesPerBranch,
  max_databases: LIMITS.databasesPerBranch,
  max_autoscaling_cu: LIMITS.maxComputeUnits,
  max_history_retention_seconds: LIMITS.historyRetentionSeconds,
};
const DEFAULT_LIMIT = 10;
export const DEFAULT_PG_VERSION = 17;
const DEFAULT_HISTORY_SECONDS = 86_400;
const DEFAULT_BRANCH = 'main';
const DEFAULT_DATABASE = 'neondb';
const DEFAULT_PROVISIONER = 'k8s-neonvm';

export function createProjects(context: Context): Projects {
  return {
    list: (caller, query) => list(context, caller, query),
    listShared: (caller) => {
      assertPersonalKey(caller);
      return { projects: [] };
    },
    create: (caller, body) => create(context, caller, body),
    get: async (caller, id) => ({
      project: presentProjectDetails(await readProject(context, caller, id), context.config, context.now()),
    }),
    update: (caller, id, body) => update(context, caller, id, body),
    limits: async (caller, id) => {
      await readProject(context, caller, id);
      return { limits: PRESENTED_LIMITS };
    },
    preloadLibraries: async (caller, id) => {
      const project = await readProject(context, caller, id);
      return {
        libraries: (await context.preloadLibraries(project.pgVersion)).map((library) => ({
          library_name: library.name,
          description: library.description,
          is_default: library.isDefault,
          is_experimental: library.isExperimental,
          version: library.version,
        })),
      };
    },
  };
}

async function list(context: Context, caller: Caller, query: ListQuery): Promise<ListProjectsResponses[200]> {
  assertNotProjectKey(caller);
  const orgId = caller.kind === 'organization' ? caller.orgId! : query.org_id;
  if (query.org_id !== undefined && !(await isVisibleOrganization(context, caller, query.org_id))) {
    throw organizationNotFound();
  }
  if (query.cursor !== undefined && !(await projectEverExisted(context.catalog, query.cursor))) {
    throw invalidRequest('cursor is not valid');
  }
  const rows = await listProjects(context.catalog, {
    orgId,
    search: query.search || undefined,
    cursor: query.cursor,
    limit: query.limit ?? DEFAULT_LIMIT,
    recoverable: query.recoverable === true,
  });
  const last = rows.at(-1);
  const now = context.now();
  return {
    projects: rows.map((row) => presentProjectListItem(row, context.config, now)),
    ...(last && { pagination: { cursor: last.id } }),
    applications: {},
    integrations: {},
  };
}

async function isVisibleOrganization(context: Context, caller: Caller, orgId: string): Promise<boolean> {
  if (caller.kind === 'organization') return caller.orgId === orgId;
  return (await findOrganization(context.catalog, orgId)) !== undefined;
}

async function create(
  context: Context,
  caller: Caller,
  body: ProjectCreateRequest,
): Promise<CreateProjectResponses[201]> {
  assertNotProjectKey(caller);
  const project = await planProject(context, caller, body);
  const branch = planBranch(body.project.branch);
  await context.assertRoomForTimeline();
  const password = await makePassword(context.secretBox, project.storePasswords);
  const answer = await context.catalog.transaction((tx) =>
    insertAll(context, tx, { project, branch, password, createdBy: caller.userId }),
  );
  context.queue.poke();
  context.onProjectChanged(project.id);
  return answer;
}

/** Checks everything of the request that is about the project itself, and fills in the defaults. */
async function planProject(context: Context, caller: Caller, body: ProjectCreateRequest): Promise<NewProject> {
  const asked = body.project;
  const id = newProjectId();
  const pgVersion = await choosePgVersion(context, asked.pg_version);
  const libraries = asked.settings?.preload_libraries ? await context.preloadLibraries(pgVersion) : [];
  // The same two fields may stand beside default_endpoint_settings; those inside are more specific.
  const size = {
    autoscaling_limit_min_cu: asked.autoscaling_limit_min_cu,
    autoscaling_limit_max_cu: asked.autoscaling_limit_max_cu,
  };
  if ((await countProjects(context.catalog)) >= LIMITS.projects) {
    throw unprocessable('projects limit exceeded', {}, 'PROJECTS_LIMIT_EXCEEDED');
  }
  return {
    id,
    nodeId: context.config.nodeId,
    orgId: await chooseOrganization(context, caller, asked.org_id),
    ownerId: caller.userId,
    name: asked.name === undefined ? id : validateDisplayName('project', asked.name),
    regionId: validateRegion(asked.region_id ?? OWN_REGION),
    provisioner: asked.provisioner ?? DEFAULT_PROVISIONER,
    pgVersion,
    storePasswords: asked.store_passwords ?? true,
    historyRetentionSeconds: validateHistory(asked.history_retention_seconds ?? DEFAULT_HISTORY_SECONDS),
    defaultEndpointSettings: resolveDefaultEndpointSettings(
      { ...withoutUndefined(size), ...asked.default_endpoint_settings },
      {},
      pgVersion,
    ) as JsonObject,
    settings: resolveProjectSettings(asked.settings ?? {}, {}, libraries) as JsonObject,
  };
}

interface RootBranch {
  name: string;
  database: string;
  role: string;
  annotation: Record<string, string> | null;
}

function planBranch(asked: ProjectCreateRequest['project']['branch'] = {}): RootBranch {
  const database = validateDatabaseName(asked.database_name ?? DEFAULT_DATABASE);
  return {
    name: validateDisplayName('branch', asked.name ?? DEFAULT_BRANCH),
    database,
    role: validateRoleName(asked.role_name ?? `${database}_owner`),
    annotation: asked.annotations ?? null,
  };
}

async function insertAll(
  context: Context,
  tx: Queryable,
  plan: { project: NewProject; branch: RootBranch; password: RolePassword; createdBy: string },
): Promise<CreateProjectResponses[201]> {
  const project = await insertProject(tx, plan.project);
  const branch = await insertBranch(tx, {
    id: newBranchId(),
    projectId: project.id,
    parentId: null,
    name: plan.branch.name,
    isDefault: true,
    protected: false,
    annotation: plan.branch.annotation,
    createdBy: plan.createdBy,
  });
  const endpoint = await insertEndpoint(tx, planEndpoint(project, branch.id, { type: 'read_write' }));
  const place = { projectId: project.id, branchId: branch.id };
  const role = await insertRole(tx, {
    ...place,
    name: plan.branch.role,
    verifier: plan.password.verifier,
    sealedPassword: plan.password.sealedPassword,
    noLogin: false,
  });
  const database = await insertDatabase(tx, { ...place, name: plan.branch.database, ownerName: role.name });
  const operations = await context.queue.append(tx, [
    { ...place, action: 'create_timeline' },
    { ...place, endpointId: endpoint.id, action: 'start_compute' },
  ]);
  const { config } = context;
  const now = context.now();
  return {
    project: presentProject(project, config),
    connection_uris: [
      presentConnectionDetails(config, {
        endpointId: endpoint.id,
        role: role.name,
        password: plan.password.password,
        database: database.name,
      }),
    ],
    roles: [presentRole(role, plan.password.password)],
    databases: [presentDatabase(database)],
    operations: operations.map((operation) => presentOperation(operation, now)),
    branch: presentBranch(branch),
    endpoints: [presentEndpoint(endpoint, project.provisioner, config)],
  };
}

async function update(
  context: Context,
  caller: Caller,
  id: string,
  body: ProjectUpdateRequest,
): Promise<UpdateProjectResponses[200]> {
  const asked = body.project;
  const { pgVersion } = await readProject(context, caller, id);
  const libraries = asked.settings?.preload_libraries ? await context.preloadLibraries(pgVersion) : [];
  return changeProject(context, caller, id, async (tx, project) => {
    const before = project.settings as ProjectSettingsData;
    const settings = resolveProjectSettings(asked.settings ?? {}, before, libraries);
    const row = await updateProject(tx, id, {
      name: asked.name === undefined ? project.name : validateDisplayName('project', asked.name),
      historyRetentionSeconds: validateHistory(asked.history_retention_seconds ?? project.historyRetentionSeconds),
      defaultEndpointSettings: (asked.default_endpoint_settings
        ? resolveDefaultEndpointSettings(asked.default_endpoint_settings, project.defaultEndpointSettings, pgVersion)
        : project.defaultEndpointSettings) as JsonObject,
      settings: settings as JsonObject,
    });
    const operations = await applyToEndpoints(context, tx, row, before, settings);
    return {
      project: presentProject(row, context.config),
      operations: operations.map((operation) => presentOperation(operation, context.now())),
    };
  });
}

/** Settings that only a start can bring in: awake computes are suspended or configured anew. */
async function applyToEndpoints(
  context: Context,
  tx: Queryable,
  project: ProjectRow,
  before: ProjectSettingsData,
  after: ProjectSettingsData,
) {
  const toSuspend = after.enable_logical_replication === true && before.enable_logical_replication !== true;
  const toConfigure = JSON.stringify(after.preload_libraries) !== JSON.stringify(before.preload_libraries);
  if (!toSuspend && !toConfigure) return [];
  const operations: NewOperation[] = [];
  for (const endpoint of await listProjectEndpoints(tx, project.id)) {
    if (!isAwake(endpoint)) continue;
    if (toSuspend) await setEndpointPendingState(tx, endpoint.id, 'idle');
    operations.push({
      projectId: project.id,
      branchId: endpoint.branchId,
      endpointId: endpoint.id,
      action: toSuspend ? 'suspend_compute' : 'apply_config',
    });
  }
  return context.queue.append(tx, operations);
}

async function choosePgVersion(context: Context, asked: number | undefined): Promise<number> {
  const available = await context.availableMajors();
  if (asked !== undefined && !available.includes(asked)) {
    throw unprocessable(`PostgreSQL ${asked} is not installed on this server; run: ballast postgres install ${asked}`, {
      pg_version: asked,
      available: available.join(' '),
    });
  }
  if (asked !== undefined) return asked;
  const version = available.includes(DEFAULT_PG_VERSION) ? DEFAULT_PG_VERSION : available.at(-1);
  if (version === undefined) throw new AppError('unavailable', 'no PostgreSQL is installed on this server');
  return version;
}

async function chooseOrganization(context: Context, caller: Caller, asked: string | undefined): Promise<string> {
  if (caller.kind === 'organization') {
    if (asked !== undefined && asked !== caller.orgId) throw organizationNotFound();
    return caller.orgId!;
  }
  const organization =
    asked === undefined
      ? await findDefaultOrganization(context.catalog)
      : await findOrganization(context.catalog, asked);
  if (!organization) throw organizationNotFound();
  return organization.id;
}

/** Regions of clouds are accepted and shown again, so that existing configurations apply unchanged. */
function validateRegion(region: string): string {
  if (region === OWN_REGION || /^(aws|azure|gcp)-[a-z0-9-]{2,50}$/.test(region)) return region;
  throw invalidRequest('region is not known', { region_id: region.slice(0, 100) });
}

function validateHistory(seconds: number): number {
  if (seconds <= LIMITS.historyRetentionSeconds) return seconds;
  throw new AppError(
    'invalid',
    'requested history retention seconds exceeds allowed maximum; ' +
      `requested_history_retention_seconds:"${seconds}", max:"${LIMITS.historyRetentionSeconds}"`,
  );
}

function withoutUndefined<T extends object>(value: T): Partial<T> {
  return Object.fromEntries(Object.entries(value).filter(([, entry]) => entry !== undefined)) as Partial<T>;
}
