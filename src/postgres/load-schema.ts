/**
 * Loads the dump of a schema into a database without ever running it with a superuser's rights: immutable functions in
 * index expressions, defaults, check constraints and casts are the tenant's code, and run while they are made.
 *
 * Whoever logs in as cloud_admin stays cloud_admin for such code, whatever role is set (it could reset that), so the
 * dump is run by a temporary login, the loader: no superuser, with a random secret, a member of every role of the
 * tenant, and gone afterwards. Owners of objects must be allowed to create in their schemas, which they may not be any
 * more: a second temporary role gives them that. A large schema takes several transactions, for every table takes locks
 * of which there are only so many: nobody else may be in the database, and one where it failed is of no further use.
 */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { AppError } from '../lib/errors.ts';
import {
  pinnedOptions,
  quoteIdentifier,
  quoteLiteral,
  withInternalSession,
  type InternalLogin,
  type InternalSession,
} from './internal-session.ts';
import { splitStatements } from './split-statements.ts';
import { oneIterationVerifier } from './template-sql.ts';

/** A dump, and what it does not say. */
export interface DatabaseSchema {
  sql: string;
  /** Owner of the schema `public`; null: it has been dropped. */
  publicOwner: string | null;
  extensionOwners: Record<string, string>;
}

const STATEMENTS_PER_TRANSACTION = 500;
const TEMPORARY_ROLE = /^ballast_(loader|owners)_[0-9a-f]{16}$/;

/** What belongs to DatabaseSchema beside the dump. */
export async function readSchemaOwners(login: InternalLogin): Promise<Omit<DatabaseSchema, 'sql'>> {
  const rows = await withInternalSession(login, (session) =>
    session.query(`
      SELECT 'schema', pg_catalog.pg_get_userbyid(nspowner)::text, NULL FROM pg_catalog.pg_namespace WHERE nspname = 'public'
      UNION ALL
      SELECT 'extension', pg_catalog.pg_get_userbyid(extowner)::text, extname::text FROM pg_catalog.pg_extension`),
  );
  return {
    publicOwner: rows.find(([kind]) => kind === 'schema')?.[1] ?? null,
    extensionOwners: Object.fromEntries(
      rows.flatMap(([kind, owner, name]) => (kind === 'extension' ? [[name, owner]] : [])),
    ),
  };
}

/**
 * Every role that the dump names must exist; the database is as it was made.
 * Throws AppError 'unprocessable' with the statement's beginning when Postgres refuses one; the transactions before stay.
 */
export async function loadSchema(login: InternalLogin, schema: DatabaseSchema, signal?: AbortSignal): Promise<void> {
  await withInternalSession({ ...login, database: 'postgres' }, async (admin) => {
    await dropTemporaryRoles(login, admin);
    const temporary = await makeTemporaryRoles(admin);
    try {
      await withInternalSession(login, (session) => preparePublic(session, schema, temporary));
      await loadAs(temporary, login, schema, signal);
    } finally {
      await dropTemporaryRoles(login, admin);
    }
  });
}

interface TemporaryRoles {
  loader: string;
  /** Everybody is a member while it exists. */
  owners: string;
  secret: string;
}

async function makeTemporaryRoles(admin: InternalSession): Promise<TemporaryRoles> {
  const suffix = randomBytes(8).toString('hex');
  const secret = randomBytes(32).toString('base64url');
  const [loader, owners] = [`ballast_loader_${suffix}`, `ballast_owners_${suffix}`];
  const roles = await admin.query(
    `SELECT rolname::text FROM pg_catalog.pg_authid WHERE rolname NOT LIKE 'pg\\_%' AND NOT rolsuper`,
  );
  const names = roles.map(([name]) => quoteIdentifier(name!));
  await admin.query(`CREATE ROLE ${owners} NOLOGIN`);
  await admin.query(
    `CREATE ROLE ${loader} LOGIN CONNECTION LIMIT 1 PASSWORD ${quoteLiteral(oneIterationVerifier(secret))}`,
  );
  await admin.query(`GRANT ${owners} TO ${names.join(', ')}`);
  await admin.query(`GRANT ${names.join(', ')} TO ${loader}`);
  return { loader, owners, secret };
}

/** Also those that a crash has left, with every right that they still have. A login that is still busy is ended first. */
async function dropTemporaryRoles(login: InternalLogin, admin: InternalSession): Promise<void> {
  const roles = await admin.query(`SELECT rolname::text FROM pg_catalog.pg_authid WHERE rolname LIKE 'ballast\\_%'`);
  const names = roles.map(([name]) => name!).filter((name) => TEMPORARY_ROLE.test(name));
  if (names.length === 0) return;
  const [identifiers, literals] = [quoteIdentifier, quoteLiteral].map((quote) => names.map(quote).join(', '));
  await admin.query(
    `SELECT pg_catalog.pg_terminate_backend(pid, 10000) FROM pg_catalog.pg_stat_activity WHERE usename IN (${literals})`,
  );
  const places = await admin.query(
    `SELECT DISTINCT d.datname::text FROM pg_catalog.pg_shdepend s
     JOIN pg_catalog.pg_authid r ON s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = r.oid
     JOIN pg_catalog.pg_database d ON d.oid = s.dbid WHERE r.rolname IN (${literals})`,
  );
  const drop = (session: InternalSession) => session.query(`DROP OWNED BY ${identifiers}`);
  for (const [database] of places) await withInternalSession({ ...login, database: database! }, drop);
  await drop(admin);
  await admin.query(`DROP ROLE ${identifiers}`);
}

/** What needs cloud_admin and runs nothing of the tenant: `public` as the source has it. */
async function preparePublic(
  session: InternalSession,
  schema: DatabaseSchema,
  { owners }: TemporaryRoles,
): Promise<void> {
  const rows = await session.query(`SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'public'`);
  if (rows.length === 0) return;
  if (schema.publicOwner === null) {
    await session.query('DROP SCHEMA public');
  } else {
    await session.query(`ALTER SCHEMA public OWNER TO ${quoteIdentifier(schema.publicOwner)}`);
    await session.query(`GRANT USAGE, CREATE ON SCHEMA public TO ${owners}`);
  }
}

async function loadAs(
  temporary: TemporaryRoles,
  login: InternalLogin,
  schema: DatabaseSchema,
  signal: AbortSignal | undefined,
): Promise<void> {
  const client = new pg.Client({
    host: login.socketDirectory,
    port: login.port,
    database: login.database,
    user: temporary.loader,
    password: temporary.secret,
    application_name: 'ballast',
    options: pinnedOptions(login.major, 'other'),
    connectionTimeoutMillis: login.connectTimeoutMs ?? 10_000,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('BEGIN');
    await giveRights(client, temporary, login.database);
    for (const [index, statement] of splitStatements(schema.sql).entries()) {
      signal?.throwIfAborted();
      if (index > 0 && index % STATEMENTS_PER_TRANSACTION === 0) await client.query('COMMIT; BEGIN');
      await runStatement(client, statement, schema, temporary);
    }
    // What has no owner in a dump, and is the loader's therefore, becomes the database owner's.
    await client.query('RESET ROLE');
    await client.query(`REASSIGN OWNED BY ${temporary.loader} TO ${await databaseOwner(client)}`);
    await client.query(`DROP OWNED BY ${temporary.owners}`);
    await client.query('COMMIT');
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function giveRights(client: pg.Client, { owners }: TemporaryRoles, database: string): Promise<void> {
  await client.query(`GRANT CREATE ON DATABASE ${quoteIdentifier(database)} TO ${owners}`);
  await client.query(`ALTER DEFAULT PRIVILEGES GRANT USAGE, CREATE ON SCHEMAS TO ${owners}`);
}

async function databaseOwner(client: pg.Client): Promise<string> {
  const { rows } = await client.query<{ owner: string }>(
    `SELECT pg_catalog.pg_get_userbyid(datdba)::text AS owner FROM pg_catalog.pg_database
     WHERE datname = pg_catalog.current_database()`,
  );
  return quoteIdentifier(rows[0]!.owner);
}

const EXTENSION = /^CREATE EXTENSION IF NOT EXISTS ("(?:[^"]|"")*"|\S+)/;
const AS_SOMEBODY = /^SET SESSION AUTHORIZATION (.+)$/;

async function runStatement(
  client: pg.Client,
  statement: string,
  schema: DatabaseSchema,
  temporary: TemporaryRoles,
): Promise<void> {
  // Every database has it from the template, and nobody else may say what cloud_admin's default privileges are.
  if (statement.startsWith('ALTER DEFAULT PRIVILEGES FOR ROLE cloud_admin ')) return;
  try {
    const extension = EXTENSION.exec(statement)?.[1];
    if (extension !== undefined) return await createExtension(client, statement, unquote(extension), schema, temporary);
    const grantor = AS_SOMEBODY.exec(statement)?.[1];
    if (grantor !== undefined) await client.query(`SET ROLE ${grantor}`);
    else if (statement === 'RESET SESSION AUTHORIZATION') await client.query('RESET ROLE');
    else await client.query(statement);
  } catch (error) {
    throw refused(statement, error);
  }
}

/** Extensions belong to whoever creates them. */
async function createExtension(
  client: pg.Client,
  statement: string,
  name: string,
  schema: DatabaseSchema,
  { owners }: TemporaryRoles,
): Promise<void> {
  const owner = schema.extensionOwners[name];
  if (owner !== undefined) await client.query(`SET ROLE ${quoteIdentifier(owner)}`);
  await client.query(statement);
  await client.query('RESET ROLE');
  const { rows } = await client.query<{ name: string }>(
    `SELECT pg_catalog.quote_ident(fdwname) AS name FROM pg_catalog.pg_foreign_data_wrapper
     WHERE pg_catalog.has_foreign_data_wrapper_privilege(oid, 'USAGE WITH GRANT OPTION')`,
  );
  for (const wrapper of rows) await client.query(`GRANT USAGE ON FOREIGN DATA WRAPPER ${wrapper.name} TO ${owners}`);
}

const unquote = (name: string): string => (name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name);

function refused(statement: string, error: unknown): unknown {
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (error instanceof AppError || typeof code !== 'string' || !/^[0-9A-Z]{5}$/.test(code)) return error;
  const beginning = statement.split('\n', 1)[0]!.slice(0, 100);
  return new AppError('unprocessable', `the schema could not be loaded: ${String(message)} (in: ${beginning})`, {
    cause: error,
  });
}
