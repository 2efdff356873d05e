/**
 * Branches: made from the head of their parent, listed, changed, made the default, deleted.
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
  DeleteProjectBranchResponses,
  GetProjectBranchResponses,
  SetDefaultProjectBranchResponses,
  UpdateProjectBranchResponses,
} from '@neon/sdk/raw';
import {
  countBranches,
  findBranch,
  findBranchByName,
  findDefaultBranch,
  findFirstChild,
  insertBranch,
  makeBranchDefault,
  markBranchDeleted,
  updateBranch,
} from '../catalog/branches.ts';
import { copyDatabases } from '../catalog/databases.ts';
import { insertEndpoint, listBranchEndpoints } from '../catalog/endpoints.ts';
import { copyRoles, listRoles, updateRolePassword } from '../catalog/roles.ts';
import type { BranchRow, DatabaseRow, EndpointRow, ProjectRow, Queryable, RoleRow } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { newBranchId } from '../lib/ids.ts';
import type { NewOperation } from '../operations/types.ts';
import { listBranches, type BranchListQuery, type BranchListAnswer } from './branch-list.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { assertMayHave, planEndpoint } from './endpoint-rules.ts';
import { branchNotFound, invalidRequest, notImplemented, unprocessable, withDetails } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateDisplayName } from './names.ts';
import { makePassword, type RolePassword } from './passwords.ts';
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
  /** Undefined: there is no such branch any more. */
  delete(caller: Caller, projectId: string, id: string): Promise<DeleteProjectBranchResponses[200] | undefined>;
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
        const row = branch.isDefault ? branch : await makeBranchDefault(tx, projectId, id);
        return { branch: presentBranch(row), operations: [] };
      }),
    delete: (caller, projectId, id) => remove(context, caller, projectId, id),
  };
}

async function create(context: Context, caller: Caller, projectId: string, body: CreateBody) {
  const asked = body.branch ?? {};
  refuseWhatIsMissing(asked);
  const { storePasswords } = await readProject(context, caller, projectId);
  await context.assertRoomForTimeline();
  // Passwords are costly to make, so they are made before the project is locked, one for each role of the parent.
  const parent = await findParent(context.catalog, projectId, asked.parent_id);
  const passwords = parent.protected
    ? await makePasswords(context, parent.id, storePasswords)
    : new Map<string, never>();
  return changeProject(context, caller, projectId, async (tx, project) => {
    const made = await insertAll(context, tx, caller, project, { body, passwords });
    return presentCreated(context, project, made);
  });
}

/** Branches begin at the head of their parent, with its data. */
function refuseWhatIsMissing(asked: NonNullable<CreateBody['branch']>): void {
  if (asked.parent_lsn !== undefined && asked.parent_timestamp !== undefined) {
    throw invalidRequest('parent_lsn and parent_timestamp cannot be used together');
  }
  if (asked.parent_lsn !== undefined) throw notImplemented('creating a branch at parent_lsn');
  if (asked.parent_timestamp !== undefined) throw notImplemented('creating a branch at parent_timestamp');
  if (asked.archived === true) throw notImplemented('creating an archived branch');
  if (asked.expires_at !== undefined) throw notImplemented('expires_at');
  if (asked.init_source === 'schema-only') throw notImplemented('init_source "schema-only"');
  if (asked.init_source !== undefined && asked.init_source !== 'parent-data') {
    throw invalidRequest('init_source must be parent-data or schema-only', {
      init_source: asked.init_source.slice(0, 100),
    });
  }
}

async function findParent(db: Queryable, projectId: string, id: string | undefined): Promise<BranchRow> {
  const parent = id === undefined ? await findDefaultBranch(db, projectId) : await findBranch(db, projectId, id);
  if (!parent) throw branchNotFound();
  return parent;
}

/** The runner creates a parent before its children; one that could not be made never will be. */
function assertBranchable(parent: BranchRow): void {
  const failed = parent.currentState === 'init' && parent.pendingState === null;
  if (failed) throw unprocessable('branch not ready yet');
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
  plan: { body: CreateBody; passwords: Map<string, RolePassword> },
): Promise<Made> {
  const asked = plan.body.branch ?? {};
  const parent = await findParent(tx, project.id, asked.parent_id);
  assertBranchable(parent);
  if ((await countBranches(tx, project.id, undefined)) >= LIMITS.branchesPerProject) {
    throw unprocessable('branches limit exceeded', {}, 'BRANCHES_LIMIT_EXCEEDED');
  }
  const id = newBranchId();
  const name = asked.name === undefined ? id : await freeBranchName(tx, project.id, asked.name);
  const branch = await insertBranch(tx, {
    id,
    projectId: project.id,
    parentId: parent.id,
    name,
    isDefault: false,
    protected: asked.protected ?? false,
    annotation: plan.body.annotation_value ?? null,
    createdBy: caller.userId,
  });
  const endpoints = await insertEndpoints(tx, project, id, plan.body.endpoints ?? []);
  let roles = await copyRoles(tx, parent.id, id);
  if (parent.protected) roles = await giveOwnPasswords(context, tx, project, roles, plan.passwords);
  const databases = await copyDatabases(tx, parent.id, id);
  const place = { projectId: project.id, branchId: id };
  const source = { parentTimelineId: parent.timelineId };
  const operations: NewOperation[] = [{ ...place, action: 'create_branch', payload: source }];
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
  // Removing an expiration that no branch has is done at once.
  if (asked.expires_at !== undefined && asked.expires_at !== null) throw notImplemented('expires_at');
  return changeProject(context, caller, projectId, async (tx) => {
    const branch = await findBranch(tx, projectId, id);
    if (!branch) throw branchNotFound();
    const renamed = asked.name !== undefined && asked.name !== branch.name;
    const row = await updateBranch(tx, id, {
      name: renamed ? await freeBranchName(tx, projectId, asked.name!) : branch.name,
      protected: asked.protected ?? branch.protected,
    });
    return { branch: presentBranch(row), operations: [] };
  });
}

async function remove(context: Context, caller: Caller, projectId: string, id: string) {
  return changeProject(context, caller, projectId, async (tx) => {
    const branch = await findBranch(tx, projectId, id);
    if (!branch) return undefined;
    await assertDeletable(tx, branch);
    const endpoints = await listBranchEndpoints(tx, id);
    const row = await markBranchDeleted(tx, id);
    const place = { projectId, branchId: id };
    const operations = await context.queue.append(tx, [
      ...endpoints.map((endpoint) => ({
        ...place,
        endpointId: endpoint.id,
        action: 'suspend_compute' as const,
      })),
      { ...place, action: 'delete_timeline' },
    ]);
    const now = context.now();
    return {
      branch: presentBranch(row),
      operations: operations.map((operation) => presentOperation(operation, now)),
    };
  });
}

async function assertDeletable(tx: Queryable, branch: BranchRow): Promise<void> {
  if (branch.parentId === null) throw unprocessable('cannot delete the root branch');
  if (branch.isDefault) throw unprocessable('cannot delete the default branch');
  if (branch.protected) throw unprocessable('cannot delete protected branch');
  const child = await findFirstChild(tx, branch.id);
  // Clients match this text with the bare id behind it.
  if (child) throw unprocessable(`cannot delete branch that has children: ${child.id}`);
}
