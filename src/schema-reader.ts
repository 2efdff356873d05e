/**
 * Reads the schema of a branch, now or at a point of its history. The branch's own compute is asked where it runs and
 * the head is meant; otherwise one that stands at the point is. Nobody's endpoint is woken.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { readRolesAndDatabases } from './compute/roles-and-databases.ts';
import type { ComputeAddress, Supervisor } from './compute/types.ts';
import type { Home } from './home.ts';
import { AppError } from './lib/errors.ts';
import type { HistoryWindow, PointQuery } from './lib/point.ts';
import type { PastBranch, PastComputes } from './past-computes.ts';
import { dumpSchema } from './postgres/dump.ts';
import { withInternalSession, type InternalLogin } from './postgres/internal-session.ts';
import { listSchema, type SchemaListing } from './postgres/schema-listing.ts';

export interface BranchToRead extends PastBranch {
  /** Of the read-write endpoint; null: there is none. */
  endpointId: string | null;
}

export interface SchemaReader {
  /** Throws 'not_found' when there is no such database, and what past-computes.ts throws about the point. */
  dump(branch: BranchToRead, query: PointQuery, window: HistoryWindow, database: string): Promise<string>;
  list(branch: BranchToRead, query: PointQuery, window: HistoryWindow, database: string): Promise<SchemaListing>;
  /** Logins of cloud_admin to a Postgres that stands there until `work` ends, by database; it may be read-only. */
  withServer<T>(
    branch: BranchToRead,
    query: PointQuery,
    window: HistoryWindow,
    work: (login: (database: string) => InternalLogin) => Promise<T>,
  ): Promise<T>;
}

export interface SchemaReaderOptions {
  home: Pick<Home, 'secrets'>;
  supervisor: Pick<Supervisor, 'address'>;
  past: Pick<PastComputes, 'withPastCompute'>;
}

export function createSchemaReader(options: SchemaReaderOptions): SchemaReader {
  const { supervisor, past } = options;
  let secret: Promise<string> | undefined;
  const readSecret = (): Promise<string> =>
    (secret ??= readFile(path.join(options.home.secrets, 'cloud-admin'), 'utf8').then((text) => text.trim()));

  const withServer: SchemaReader['withServer'] = async ({ endpointId, ...branch }, query, window, work) => {
    const login = (address: ComputeAddress, password: string) => (database: string) => ({
      ...address,
      database,
      secret: password,
      major: branch.pgVersion,
    });
    const password = await readSecret();
    const own = query.kind === 'head' && endpointId !== null ? supervisor.address(endpointId) : undefined;
    if (own) return work(login(own, password));
    return past.withPastCompute(branch, query, window, (address) => work(login(address, password)));
  };
  const inDatabase = <T>(work: (login: InternalLogin) => Promise<T>): ReaderOf<T> => {
    return (branch, query, window, database) =>
      withServer(branch, query, window, async (login) => {
        const { databases } = await withInternalSession(login('postgres'), readRolesAndDatabases);
        if (!databases.some(({ name }) => name === database)) throw new AppError('not_found', 'database not found');
        return work(login(database));
      });
  };
  return { withServer, dump: inDatabase((login) => dumpSchema(login)), list: inDatabase(listSchema) };
}

type ReaderOf<T> = (branch: BranchToRead, query: PointQuery, window: HistoryWindow, database: string) => Promise<T>;
