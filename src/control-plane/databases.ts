/**
 * Databases of a branch. A change is a row that says what is pending, and an operation that brings it into Postgres.
 * A rename or a new owner needs a database that is as its row says: one with a change under way answers 423, which is
 * safe to repeat.
 */
import type {
  CreateProjectBranchDatabaseResponses,
  DatabaseCreateRequest,
  DatabaseUpdateRequest,
  DeleteProjectBranchDatabaseResponses,
  GetProjectBranchDatabaseResponses,
  ListProjectBranchDatabasesResponses,
  UpdateProjectBranchDatabaseResponses,
} from '@neon/sdk/raw';
import { findBranch } from '../catalog/branches.ts';
import {
  findDatabase,
  findDatabaseInAnyState,
  insertDatabase,
  listDatabases,
  markDatabaseDeleting,
  updateDatabase,
} from '../catalog/databases.ts';
import { findRole } from '../catalog/roles.ts';
import type { DatabaseRow, Queryable } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { applyConfigOperations } from './endpoint-rules.ts';
import { branchNotFound, conflictingOperations, databaseNotFound, unprocessable, withDetails } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateDatabaseName } from './names.ts';
import { presentDatabase, presentOperation } from './present.ts';
import { requireEndpoint } from './roles.ts';

export interface Databases {
  list(caller: Caller, projectId: string, branchId: string): Promise<ListProjectBranchDatabasesResponses[200]>;
  get(
    caller: Caller,
    projectId: string,
    branchId: string,
    name: string,
  ): Promise<GetProjectBranchDatabaseResponses[200]>;
  create(
    caller: Caller,
    projectId: string,
    branchId: string,
    body: DatabaseCreateRequest,
  ): Promise<CreateProjectBranchDatabaseResponses[201]>;
  update(
    caller: Caller,
    projectId: string,
    branchId: string,
    name: string,
    body: DatabaseUpdateRequest,
  ): Promise<UpdateProjectBranchDatabaseResponses[200]>;
  /** Undefined: there is no such database any more. */
  delete(
    caller: Caller,
    projectId: string,
    branchId: string,
    name: string,
  ): Promise<DeleteProjectBranchDatabaseResponses[200] | undefined>;
}

export function createDatabases(context: Context): Databases {
  const readBranch = async (caller: Caller, projectId: string, branchId: string): Promise<void> => {
    await readProject(context, caller, projectId);
    if (!(await findBranch(context.catalog, projectId, branchId))) throw branchNotFound();
  };
  return {
    list: async (caller, projectId, branchId) => {
      await readBranch(caller, projectId, branchId);
      return { databases: (await listDatabases(context.catalog, branchId)).map(presentDatabase) };
    },
    get: async (caller, projectId, branchId, name) => {
      await readBranch(caller, projectId, branchId);
      const row = await findDatabase(context.catalog, branchId, name);
      if (!row) throw databaseNotFound();
      return { database: presentDatabase(row) };
    },
    create: (caller, projectId, branchId, body) => create(context, caller, { projectId, branchId }, body),
    update: (caller, projectId, branchId, name, body) => update(context, caller, { projectId, branchId }, name, body),
    delete: (caller, projectId, branchId, name) =>
      changeDatabase(context, caller, { projectId, branchId }, async (tx) => {
        const database = await findDatabase(tx, branchId, name);
        if (!database) return undefined;
        // Under which name Postgres has it just now, only the running operation knows.
        if (database.state === 'updating') throw conflictingOperations();
        return markDatabaseDeleting(tx, database.id);
      }),
  };
}

interface Place {
  projectId: string;
  branchId: string;
}

type Work = (tx: Queryable) => Promise<DatabaseRow | undefined>;

/** Changes a database of a branch that has a compute to change it in, and appends what brings it into Postgres. */
async function changeDatabase(context: Context, caller: Caller, place: Place, work: Work) {
  return changeProject(context, caller, place.projectId, async (tx) => {
    if (!(await findBranch(tx, place.projectId, place.branchId))) throw branchNotFound();
    const row = await work(tx);
    if (!row) return undefined;
    const endpoint = await requireEndpoint(tx, place.branchId, 'databases');
    const operations = await context.queue.append(tx, applyConfigOperations(endpoint));
    const now = context.now();
    return {
      database: presentDatabase(row),
      operations: operations.map((operation) => presentOperation(operation, now)),
    };
  });
}

async function create(
  context: Context,
  caller: Caller,
  place: Place,
  body: DatabaseCreateRequest,
): Promise<CreateProjectBranchDatabaseResponses[201]> {
  const name = validateDatabaseName(body.database.name);
  const owner = body.database.owner_name;
  const made = await changeDatabase(context, caller, place, async (tx) => {
    await assertOwner(tx, place.branchId, owner);
    await assertNameFree(tx, place.branchId, name);
    if ((await listDatabases(tx, place.branchId)).length >= LIMITS.databasesPerBranch) {
      throw unprocessable('databases limit exceeded', {}, 'DATABASES_LIMIT_EXCEEDED');
    }
    return insertDatabase(tx, { ...place, name, ownerName: owner });
  });
  return made!;
}

async function update(
  context: Context,
  caller: Caller,
  place: Place,
  name: string,
  body: DatabaseUpdateRequest,
): Promise<UpdateProjectBranchDatabaseResponses[200]> {
  const asked = body.database;
  const changed = await changeDatabase(context, caller, place, async (tx) => {
    const database = await findDatabase(tx, place.branchId, name);
    if (!database) throw databaseNotFound();
    if (database.state !== 'ready') throw conflictingOperations();
    const newName = asked.name ?? name;
    if (newName !== name) {
      validateDatabaseName(newName);
      await assertNameFree(tx, place.branchId, newName);
    }
    const ownerName = asked.owner_name ?? database.ownerName;
    if (ownerName !== database.ownerName) await assertOwner(tx, place.branchId, ownerName);
    return updateDatabase(tx, database.id, {
      name: newName,
      ownerName,
      appliedName: newName === name ? null : name,
    });
  });
  return changed!;
}

async function assertOwner(tx: Queryable, branchId: string, owner: string): Promise<void> {
  if (await findRole(tx, branchId, owner)) return;
  throw unprocessable('database owner not found', { role_name: owner.slice(0, 100) });
}

async function assertNameFree(tx: Queryable, branchId: string, name: string): Promise<void> {
  const existing = await findDatabaseInAnyState(tx, branchId, name);
  if (!existing) return;
  // Its name is free once Postgres has dropped it.
  if (existing.state === 'deleting') throw conflictingOperations();
  throw new AppError('conflict', withDetails('database already exists', { database_name: name }));
}
