/**
 * Branches: made from a point of their parent, listed, changed, made the default. Deletion is in branch-deletion.ts.
 *
 * A child begins with the roles, databases and passwords of its parent, pending ones included; children of protected
 * branches get passwords of their own.
 */
import type {
  BranchCreateRequest,
  AnnotationCreateValueRequest,
  BranchUpdateRequest,
  CountProjectBranchesResponses,
  CreateProjectBranchResponses,
  GetProjectBranchResponses,
  SetDefaultProjectBranchResponses,
  UpdateProjectBranchResponses,
} from '@neon/sdk/raw';
import {
  countBranches,
  findBranch,
  findBranchByName,
  findDefaultBranch,
  insertBranch,
  makeBranchDefault,
  updateBranch,
} from '../catalog/branches.ts';
import { copyDatabases, listDatabases } from '../catalog/databases.ts';
import { insertEndpoint } from '../catalog/endpoints.ts';
import { forgetPending } from '../catalog/restores.ts';
import type { SchemaCopyPayload } from '../catalog/schema-copies.ts';
import { copyRoles, listRoles, updateRolePassword } from '../catalog/roles.ts';
import type { BranchRow, DatabaseRow, EndpointRow, ProjectRow, Queryable, RoleRow } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { newBranchId } from '../lib/ids.ts';
import type { NewOperation } from '../operations/types.ts';
import { listBranches, type BranchListQuery, type BranchListAnswer } from './branch-list.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { assertMayHave, planEndpoint } from './endpoint-rules.ts';
import { branchNotFound, conflictingOperations, invalidRequest, unprocessable, withDetails } from './errors.ts';
import { assertMayBeParent, assertMayExpire, parseExpiration, type Expiration } from './expiration.ts';
import { LIMITS } from './limits.ts';
import { validateDisplayName } from './names.ts';
import { makePassword, type RolePassword } from './passwords.ts';
import { assertBranchable, assertNotRestoring, cloneSource, parsePoint, resolvePoint, type PointOf } from './points.ts';
import {
  presentAnnotation,
  presentBranch,
  presentConnectionDetails,
  presentDatabase,
  presentEndpoint,
  presentOperation,
  presentRole,
} from './present.ts';

type CreateBody = BranchCreateRequest & AnnotationCreateValueRequest;

export interface Branches {
  list(caller: Caller, projectId: string, query: BranchListQuery): Promise<BranchListAnswer>;
  count(
    caller: Caller,
    projectId: string,
    query: { search?: string | undefined },
  ): Promise<CountProjectBranchesResponses[200]>;
  create(caller: Caller, projectId: string, body: CreateBody | undefined): Promise<CreateProjectBranchResponses[201]>;
  get(caller: Caller, projectId: string, id: string): Promise<GetProjectBranchResponses[200]>;
  update(
    caller: Caller,
    projectId: string,
    id: string,
    body: BranchUpdateRequest,
  ): Promise<UpdateProjectBranchResponses[200]>;
  setDefault(caller: Caller, projectId: string, id: string): Promise<SetDefaultProjectBranchResponses[200]>;
}

export function createBranches(context: Context): Branches {
  return {
    list: async (caller, projectId, query) => {
      await readProject(context, caller, projectId);
      return listBranches(context.catalog, projectId, query);
    },
    count: async (caller, projectId, query) => {
      await readProject(context, caller, projectId);
      return { count: await countBranches(context.catalog, projectId, query.search || undefined) };
    },
    create: (caller, projectId, body) => create(context, caller, projectId, body ?? {}),
    get: async (caller, projectId, id) => {
      await readProject(context, caller, projectId);
      const row = await findBranch(context.catalog, projectId, id);
      if (!row) throw branchNotFound();
      return { branch: presentBranch(row), annotation: presentAnnotation(row) };
    },
    update: (caller, projectId, id, body) => update(context, caller, projectId, id, body),
    setDefault: (caller, projectId, id) =>
      changeProject(context, caller, projectId, async (tx) => {
        const branch = await findBranch(tx, projectId, id);
        if (!branch) throw branchNotFound();
        if (branch.expiresAt !== null) throw unprocessable('a branch with an expiration cannot be the default branch');
        await assertNotRestoring(tx, branch);
        const row = branch.isDefault ? branch : await makeBranchDefault(tx, projectId, id);
        return { branch: presentBranch(row), operations: [] };
      }),
  };
}

async function create(context: Context, caller: Caller, projectId: string, body: CreateBody) {
  const asked = body.branch ?? {};
  refuseWhatIsMissing(asked);
  const query = parsePoint(
    { lsn: asked.parent_lsn, time: asked.parent_timestamp },
    { lsn: 'parent_lsn', time: 'parent_timestamp' },
  );
  const expiration = parseExpiration(asked.expires_at, context.now());
  const project = await readProject(context, caller, projectId);
  await context.assertRoomForTimeline();
  // Passwords are costly to make, so they are made before the project is locked, one for each role of the parent.
  const parent = await findParent(context.catalog, projectId, asked.parent_id);
  const passwords = parent.protected
    ? await makePasswords(context, parent.id, project.storePasswords)
    : new Map<string, never>();
  const point = await resolvePoint(context, project, parent, query);
  return changeProject(context, caller, projectId, async (tx, locked) => {
    const made = await insertAll(context, tx, caller, locked, { body, passwords, point, expiration });
    return presentCreated(context, locked, made);
  });
}

function refuseWhatIsMissing(asked: NonNullable<CreateBody['branch']>): void {
  if (asked.init_source !== undefined && !['parent-data', 'schema-only'].includes(asked.init_source)) {
    throw invalidRequest('init_source must be parent-data or schema-only', {
      init_source: asked.init_source.slice(0, 100),
    });
  }
  if (asked.protected === true && asked.expires_at !== undefined) {
    throw invalidRequest('a protected branch cannot have an expiration');
  }
}

const isSchemaOnly = (asked: NonNullable<CreateBody['branch']>): boolean => asked.init_source === 'schema-only';

async function findParent(db: Queryable, projectId: string, id: string | undefined): Promise<BranchRow> {
  const parent = !id ? await findDefaultBranch(db, projectId) : await findBranch(db, projectId, id);
  if (!parent) throw branchNotFound();
  return parent;
}

async function makePasswords(context: Context, branchId: string, stored: boolean): Promise<Map<string, RolePassword>> {
  const roles = await listRoles(context.catalog, branchId);
  return new Map(
    await Promise.all(roles.map(async (role) => [role.name, await makePassword(context.secretBox, stored)] as const)),
  );
}

interface Made {
  branch: BranchRow;
  endpoints: EndpointRow[];
  roles: RoleRow[];
  databases: DatabaseRow[];
  operations: CreateProjectBranchResponses[201]['operations'];
}

async function insertAll(
  context: Context,
  tx: Queryable,
  caller: Caller,
  project: ProjectRow,
  plan: {
    body: CreateBody;
    passwords: Map<string, RolePassword>;
    point: PointOf | undefined;
    expiration: Expiration;
  },
): Promise<Made> {
  const { point } = plan;
  const asked = plan.body.branch ?? {};
  const parent = await findParent(tx, project.id, asked.parent_id);
  if (isSchemaOnly(asked)) assertHasSchema(parent);
  else assertMayBeParent(parent);
  assertBranchable(parent);
  const source = await cloneSource(tx, parent, point);
  if ((await countBranches(tx, project.id, undefined)) >= LIMITS.branchesPerProject) {
    throw unprocessable('branches limit exceeded', {}, 'BRANCHES_LIMIT_EXCEEDED');
  }
  const id = newBranchId();
  const name = asked.name === undefined ? id : await freeBranchName(tx, project.id, asked.name);
  const branch = await insertBranch(tx, {
    id,
    projectId: project.id,
    // A branch with a schema only has no history in common with its source: it is a root.
    ...(isSchemaOnly(asked)
      ? { parentId: null, initSource: 'schema-only' }
      : { parentId: parent.id, parentLsn: point?.lsn ?? null, parentTimestamp: point?.time ?? null }),
    name,
    isDefault: false,
    protected: asked.protected ?? false,
    annotation: plan.body.annotation_value ?? null,
    createdBy: caller.userId,
    ...plan.expiration,
  });
  const endpoints = await insertEndpoints(tx, project, id, plan.body.endpoints ?? []);
  const { roles, databases } = await copyRows(context, tx, {
    project,
    parent,
    id,
    past: point !== undefined,
    passwords: plan.passwords,
  });
  const place = { projectId: project.id, branchId: id };
  const operations = isSchemaOnly(asked)
    ? schemaOperations(place, parent, source, asked.archived === true)
    : [cloneOperation(place, source, asked.archived === true)];
  for (const endpoint of endpoints.filter(({ disabled }) => !disabled))
    operations.push({ ...place, endpointId: endpoint.id, action: 'start_compute' });
  const now = context.now();
  const appended = await context.queue.append(tx, operations);
  return {
    branch,
    endpoints,
    roles,
    databases,
    operations: appended.map((operation) => presentOperation(operation, now)),
  };
}

type Source = Awaited<ReturnType<typeof cloneSource>>;

function cloneOperation(
  place: Pick<NewOperation, 'projectId' | 'branchId'>,
  source: Source,
  archived: boolean,
): NewOperation {
  const payload = { ...source, ...(archived && { archived }) };
  return { ...place, action: 'create_branch', payload };
}

/** The schema is loaded before any endpoint starts: whoever connects finds all of it. */
function schemaOperations(
  place: Pick<NewOperation, 'projectId' | 'branchId'>,
  parent: BranchRow,
  { parentTimelineId, lsn }: Source,
  archived: boolean,
): NewOperation[] {
  const payload: SchemaCopyPayload = {
    sourceBranchId: parent.id,
    sourceTimelineId: parentTimelineId,
    ...(lsn !== undefined && { lsn }),
    ...(archived && { archived }),
  };
  return [
    { ...place, action: 'create_timeline', payload: { schemaFollows: true } },
    { ...place, action: 'apply_schema_from_branch', payload: { ...payload } },
  ];
}

/** Throws 'locked' until the branch has been made. */
function assertHasSchema(source: BranchRow): void {
  if (source.currentState === 'init' && source.pendingState !== null) throw conflictingOperations();
}

/** The read-write one first: what it brings into Postgres, the others only follow. */
async function insertEndpoints(
  tx: Queryable,
  project: ProjectRow,
  branchId: string,
  options: NonNullable<CreateBody['endpoints']>,
): Promise<EndpointRow[]> {
  const rows: EndpointRow[] = [];
  for (const type of ['read_write', 'read_only'] as const) {
    for (const asked of options.filter((one) => one.type === type)) {
      assertMayHave(rows, type);
      rows.push(await insertEndpoint(tx, planEndpoint(project, branchId, asked)));
    }
  }
  return rows;
}

/** The roles and databases of the parent, until the first start has read those of the data. */
async function copyRows(
  context: Context,
  tx: Queryable,
  copy: { project: ProjectRow; parent: BranchRow; id: string; past: boolean; passwords: Map<string, RolePassword> },
): Promise<{ roles: RoleRow[]; databases: DatabaseRow[] }> {
  const { project, parent, id, past, passwords } = copy;
  let roles = await copyRoles(tx, parent.id, id);
  let databases = await copyDatabases(tx, parent.id, id);
  if (past) {
    // What is about to be done to the parent now is not to be done to what it was then.
    await forgetPending(tx, id);
    [roles, databases] = [await listRoles(tx, id), await listDatabases(tx, id)];
  }
  if (parent.protected) roles = await giveOwnPasswords(context, tx, project, roles, passwords);
  return { roles, databases };
}

/** Nobody who knows a password of the protected parent gets into its child with it. */
async function giveOwnPasswords(
  context: Context,
  tx: Queryable,
  project: ProjectRow,
  roles: readonly RoleRow[],
  passwords: Map<string, RolePassword>,
): Promise<RoleRow[]> {
  const changed: RoleRow[] = [];
  for (const role of roles) {
    if (role.noLogin || role.verifier === null) {
      changed.push(role);
      continue;
    }
    // A role that appeared since the passwords were made gets its own here.
    const password = passwords.get(role.name) ?? (await makePassword(context.secretBox, project.storePasswords));
    changed.push(await updateRolePassword(tx, role.branchId, role.name, password));
  }
  return changed;
}

function presentCreated(context: Context, project: ProjectRow, made: Made): CreateProjectBranchResponses[201] {
  const { branch, endpoints, roles, databases } = made;
  const endpoint = endpoints[0];
  const [role, database] = [roles[0], databases[0]];
  // With more than one of either, the client has to choose; without a stored password there is nothing to show.
  const single = endpoint && role?.sealedPassword && database && roles.length === 1 && databases.length === 1;
  const uris = single && [
    presentConnectionDetails(context.config, {
      endpointId: endpoint.id,
      role: role.name,
      password: context.secretBox.open(role.sealedPassword!),
      database: database.name,
    }),
  ];
  return {
    branch: presentBranch(branch),
    endpoints: endpoints.map((row) => presentEndpoint(row, project.provisioner, context.config)),
    operations: made.operations,
    roles: roles.map((entry) => presentRole(entry)),
    databases: databases.map(presentDatabase),
    ...(uris && { connection_uris: uris }),
  };
}

async function freeBranchName(tx: Queryable, projectId: string, name: string): Promise<string> {
  validateDisplayName('branch', name);
  if (await findBranchByName(tx, projectId, name)) {
    throw new AppError('conflict', withDetails('branch already exists', { branch_name: name }), {
      code: 'BRANCH_ALREADY_EXISTS',
    });
  }
  return name;
}

async function update(
  context: Context,
  caller: Caller,
  projectId: string,
  id: string,
  body: BranchUpdateRequest,
): Promise<UpdateProjectBranchResponses[200]> {
  const asked = body.branch;
  const expiration = parseExpiration(asked.expires_at, context.now());
  return changeProject(context, caller, projectId, async (tx) => {
    const branch = await findBranch(tx, projectId, id);
    if (!branch) throw branchNotFound();
    const renamed = asked.name !== undefined && asked.name !== branch.name;
    const { expiresAt, ttlIntervalSeconds } = asked.expires_at === undefined ? branch : expiration;
    const changed = { ...branch, protected: asked.protected ?? branch.protected };
    if (asked.protected === true && expiresAt !== null) {
      throw unprocessable('a branch with an expiration cannot be protected');
    }
    if (asked.protected === true) await assertNotRestoring(tx, branch);
    if (asked.expires_at !== undefined && expiresAt !== null) await assertMayExpire(tx, changed);
    const row = await updateBranch(tx, id, {
      name: renamed ? await freeBranchName(tx, projectId, asked.name!) : branch.name,
      protected: changed.protected,
      expiresAt,
      ttlIntervalSeconds,
    });
    return { branch: presentBranch(row), operations: [] };
  });
}
