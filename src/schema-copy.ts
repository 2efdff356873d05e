/**
 * Gives a new root timeline the roles, databases and schemas of a branch, and none of its data, statistics or WAL.
 *
 * The work is done by a compute that no endpoint stands for, so no client is in it. Each try begins with a fresh clone
 * of the template: what an earlier one left does not count.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { readRolesAndDatabases } from './compute/roles-and-databases.ts';
import type { ComputeAddress, ComputeChange, ComputeSpec, RolesAndDatabases, Supervisor } from './compute/types.ts';
import type { Home } from './home.ts';
import type { HistoryWindow, PointQuery } from './lib/point.ts';
import {
  createDatabaseStatement,
  databaseStatements,
  readClusterFacts,
  roleStatements,
  settingStatement,
  type DatabaseFacts,
} from './postgres/cluster-facts.ts';
import { dumpSchema } from './postgres/dump.ts';
import { withInternalSession, type InternalLogin } from './postgres/internal-session.ts';
import { loadSchema, readSchemaOwners } from './postgres/load-schema.ts';
import type { BranchToRead, SchemaReader } from './schema-reader.ts';
import type { FileOwner, Storage, TimelineRef } from './storage/types.ts';

export interface SchemaCopy {
  source: BranchToRead;
  point: PointQuery;
  window: HistoryWindow;
  target: TimelineRef & { pgVersion: number; owner: FileOwner | undefined; preloadLibraries: readonly string[] };
  /** Applied on top of what the source has. */
  changes: readonly ComputeChange[];
}

export interface SchemaCopier {
  /**
   * Resolves to what the new timeline holds; its Postgres has stopped by then. Throws AppError 'unprocessable' when
   * the schema cannot be loaded.
   */
  copy(copy: SchemaCopy, signal: AbortSignal): Promise<RolesAndDatabases>;
  /** Ends what an earlier process may have left running, so that the timeline can be removed. */
  abandon(target: TimelineRef): Promise<void>;
  /** True for the endpoint id of a compute that is at work. */
  holds(endpointId: string): boolean;
}

export interface SchemaCopierOptions {
  home: Pick<Home, 'secrets'>;
  supervisor: Pick<Supervisor, 'start' | 'suspend' | 'applyChanges' | 'rolesAndDatabases'>;
  storage: Pick<Storage, 'createRootTimeline' | 'deleteTimeline'>;
  schemas: Pick<SchemaReader, 'withServer'>;
}

type LoginTo = (database: string) => InternalLogin;

const SIZE_CU = 0.25;
const endpointIdOf = (target: TimelineRef): string => `schema-${target.timelineId}`;

export function createSchemaCopier(options: SchemaCopierOptions): SchemaCopier {
  const { supervisor, storage } = options;
  const held = new Set<string>();
  const abandon = (target: TimelineRef) => supervisor.suspend(endpointIdOf(target));
  return {
    holds: (endpointId) => held.has(endpointId),
    abandon,
    copy: async (copy, signal) => {
      const { target } = copy;
      const endpointId = endpointIdOf(target);
      held.add(endpointId);
      try {
        await abandon(target);
        await storage.deleteTimeline(target);
        await storage.createRootTimeline(target);
        const login = await loginTo(options, await supervisor.start(targetSpec(target), []), target.pgVersion);
        await options.schemas.withServer(copy.source, copy.point, copy.window, (from) =>
          copyAll(options, { from, to: login, endpointId, signal }),
        );
        await supervisor.applyChanges(endpointId, copy.changes);
        return await supervisor.rolesAndDatabases(endpointId);
      } finally {
        await abandon(target);
        held.delete(endpointId);
      }
    },
  };
}

function targetSpec({ projectId, timelineId, pgVersion, owner, preloadLibraries }: SchemaCopy['target']): ComputeSpec {
  return {
    endpointId: endpointIdOf({ projectId, timelineId }),
    timeline: { projectId, timelineId },
    pgVersion,
    owner,
    minCu: SIZE_CU,
    maxCu: SIZE_CU,
    pgSettings: {},
    preloadLibraries,
    logicalReplication: false,
  };
}

async function loginTo({ home }: SchemaCopierOptions, address: ComputeAddress, major: number): Promise<LoginTo> {
  const secret = (await readFile(path.join(home.secrets, 'cloud-admin'), 'utf8')).trim();
  return (database) => ({ ...address, database, secret, major });
}

interface Work {
  from: LoginTo;
  to: LoginTo;
  endpointId: string;
  signal: AbortSignal;
}

async function copyAll(options: SchemaCopierOptions, work: Work): Promise<void> {
  const { from, to } = work;
  const facts = await withInternalSession(from('postgres'), async (session) => {
    const { databases } = await readRolesAndDatabases(session);
    const names = databases.map(({ name }) => name);
    return readClusterFacts(session, from('postgres').major, names);
  });
  await run(to('postgres'), roleStatements(facts, to('postgres').major));
  for (const database of facts.databases) await copyDatabase(options, work, database);
  // Last, so that they disturb no session before.
  await run(to('postgres'), facts.settings.map(settingStatement));
}

async function copyDatabase({ supervisor }: SchemaCopierOptions, work: Work, database: DatabaseFacts): Promise<void> {
  const { from, to, endpointId, signal } = work;
  const { name, owner } = database;
  signal.throwIfAborted();
  const make = createDatabaseStatement(database);
  if (make !== undefined) await run(to('postgres'), [make]);
  await supervisor.applyChanges(endpointId, [{ kind: 'create_database', name, owner }]);
  await run(to('postgres'), databaseStatements(database));
  const schema = { sql: await dumpSchema(from(name), { signal }), ...(await readSchemaOwners(from(name))) };
  await loadSchema(to(name), schema, signal);
}

async function run(login: InternalLogin, statements: readonly string[]): Promise<void> {
  await withInternalSession(login, async (session) => {
    for (const statement of statements) await session.query(statement);
  });
}
