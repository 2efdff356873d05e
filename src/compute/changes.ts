/**
 * Applies changes of roles and databases inside a running compute.
 *
 * Roles made through the API are members of neon_superuser; nobody is a superuser. Every change may run again, also
 * after a crash in its middle, and finds its role or database gone without complaint. Work stays in the database
 * `postgres`; what must happen inside a tenant's database runs on a pinned session and calls no function of the tenant.
 */
import { AppError } from '../lib/errors.ts';
import type { InternalSession } from '../postgres/internal-session.ts';
import { quoteIdentifier, quoteLiteral } from '../postgres/internal-session.ts';
import { SEED_DATABASE } from '../postgres/template-sql.ts';
import { IS_SEED } from './roles-and-databases.ts';
import type { Sessions } from './sessions.ts';
import { dropSubscriptions } from './subscriptions.ts';
import type { ComputeChange } from './types.ts';

type Change<Kind extends ComputeChange['kind']> = Extract<ComputeChange, { kind: Kind }>;

/** Tenants may connect again at any time between "disconnect everybody" and the statement that needs it. */
const EXCLUSIVE_ATTEMPTS = 5;
const OBJECT_IN_USE = '55006';

/** Applies in order. Throws AppError 'unprocessable' naming what Postgres refused. */
export async function applyChanges(sessions: Sessions, changes: readonly ComputeChange[]): Promise<void> {
  for (const change of changes) {
    try {
      await applyChange(sessions, change);
    } catch (error) {
      throw asAppError(change, error);
    }
  }
}

function applyChange(sessions: Sessions, change: ComputeChange): Promise<void> {
  assertTouchable(change.name);
  switch (change.kind) {
    case 'create_role':
      return sessions.inPostgres((session) => createRole(session, change));
    case 'set_verifier':
      return sessions.inPostgres((session) => setVerifier(session, change));
    case 'drop_role':
      return dropRole(sessions, change);
    case 'create_database':
      return createDatabase(sessions, change);
    case 'alter_database':
      return alterDatabase(sessions, change);
    case 'drop_database':
      return dropDatabase(sessions, change);
  }
}

/** The rules above already refuse these names; a mistake there must not reach the superuser. */
function assertTouchable(name: string): void {
  const internal = ['cloud_admin', 'neon_superuser', 'postgres', 'template0', 'template1'];
  if (internal.includes(name) || name.startsWith('pg_') || name === '') {
    throw new AppError('unprocessable', `"${name}" is reserved`);
  }
}

function asAppError(change: ComputeChange, error: unknown): unknown {
  const refused = error as { code?: unknown; severity?: unknown; message?: unknown };
  if (error instanceof AppError || typeof refused.code !== 'string' || refused.severity !== 'ERROR') return error;
  // In use is a matter of time; everything else will be refused again.
  const kind = refused.code === OBJECT_IN_USE ? 'unavailable' : 'unprocessable';
  const what = change.kind.replace('_', ' ');
  return new AppError(kind, `could not ${what} "${change.name}": ${String(refused.message)}`, { cause: error });
}

async function exists(session: InternalSession, catalog: 'pg_authid' | 'pg_database', name: string): Promise<boolean> {
  const column = catalog === 'pg_authid' ? 'rolname' : 'datname';
  const rows = await session.query(`SELECT 1 FROM pg_catalog.${catalog} WHERE ${column} = ${quoteLiteral(name)}`);
  return rows.length > 0;
}

async function createRole(session: InternalSession, change: Change<'create_role'>): Promise<void> {
  const role = quoteIdentifier(change.name);
  const login = change.noLogin ? 'NOLOGIN' : 'LOGIN';
  const password = change.verifier === null ? 'PASSWORD NULL' : `PASSWORD ${verifierLiteral(change.verifier)}`;
  const present = await exists(session, 'pg_authid', change.name);
  // Somebody may have made one by SQL meanwhile; what it may do then is not ours to say.
  if (change.plain && present) return;
  if (change.plain) return void (await session.query(`CREATE ROLE ${role} ${login} ${password}`));
  const verb = present ? 'ALTER' : 'CREATE';
  await session.query(`${verb} ROLE ${role} INHERIT CREATEROLE CREATEDB BYPASSRLS REPLICATION ${login} ${password}`);
  await session.query(`GRANT neon_superuser TO ${role}`);
}

async function setVerifier(session: InternalSession, change: Change<'set_verifier'>): Promise<void> {
  if (!(await exists(session, 'pg_authid', change.name))) return;
  await session.query(`ALTER ROLE ${quoteIdentifier(change.name)} PASSWORD ${verifierLiteral(change.verifier)}`);
}

/** Anything else would be taken for a password in clear text. */
function verifierLiteral(verifier: string): string {
  if (!/^SCRAM-SHA-256\$\d+:[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$/.test(verifier)) {
    throw new AppError('internal', 'not a SCRAM verifier');
  }
  return quoteLiteral(verifier);
}

async function dropRole(sessions: Sessions, change: Change<'drop_role'>): Promise<void> {
  const role = quoteIdentifier(change.name);
  const databases = await sessions.inPostgres(async (session) => {
    if (!(await exists(session, 'pg_authid', change.name))) return undefined;
    await session.query(`ALTER ROLE ${role} NOLOGIN`);
    await session.query(
      `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
       WHERE usename = ${quoteLiteral(change.name)}`,
    );
    return session.query(
      `SELECT datname::text, pg_catalog.pg_get_userbyid(datdba)::text FROM pg_catalog.pg_database
       WHERE datallowconn AND datconnlimit <> -2 AND datname <> 'template1'`,
    );
  });
  if (databases === undefined) return;
  for (const [database, owner] of databases) {
    const heir = owner === change.name || owner === 'cloud_admin' ? 'neon_superuser' : owner!;
    await sessions.inDatabase(database!, async (session) => {
      await session.query(`REASSIGN OWNED BY ${role} TO ${quoteIdentifier(heir)}`);
      await session.query(`DROP OWNED BY ${role}`);
    });
  }
  await sessions.inPostgres((session) => session.query(`DROP ROLE IF EXISTS ${role}`));
}

async function createDatabase(sessions: Sessions, change: Change<'create_database'>): Promise<void> {
  const database = quoteIdentifier(change.name);
  const owner = quoteIdentifier(change.owner);
  await sessions.inPostgres(async (session) => {
    if (!(await exists(session, 'pg_database', change.name))) {
      if (await hasSeed(session)) {
        await session.query(`ALTER DATABASE ${SEED_DATABASE} RENAME TO ${database}`);
      } else {
        await exclusively(session, 'template1', `CREATE DATABASE ${database} OWNER ${owner}`);
      }
    }
    // Also when a crash came between the rename and this.
    await session.query(`ALTER DATABASE ${database} OWNER TO ${owner}`);
    await session.query(`GRANT ALL PRIVILEGES ON DATABASE ${database} TO neon_superuser`);
  });
  await sessions.inDatabase(change.name, (session) =>
    givePublicSchema(session, ['cloud_admin', 'pg_database_owner'], change.owner),
  );
}

/** Nobody has ever been in it: it is gone before the first client enters, or it is still as the template has it. */
async function hasSeed(session: InternalSession): Promise<boolean> {
  return (await session.query(`SELECT 1 FROM pg_catalog.pg_database WHERE ${IS_SEED}`)).length > 0;
}

/** Hands the schema `public` on, if it is there and still belongs to one of `from`. */
async function givePublicSchema(session: InternalSession, from: readonly string[], to: string): Promise<void> {
  const rows = await session.query(
    `SELECT pg_catalog.pg_get_userbyid(nspowner)::text FROM pg_catalog.pg_namespace WHERE nspname = 'public'`,
  );
  const owner = rows[0]?.[0];
  if (typeof owner === 'string' && from.includes(owner)) {
    await session.query(`ALTER SCHEMA public OWNER TO ${quoteIdentifier(to)}`);
  }
}

async function alterDatabase(sessions: Sessions, change: Change<'alter_database'>): Promise<void> {
  assertTouchable(change.newName);
  const previousOwner = await sessions.inPostgres(async (session) => {
    if (change.newName !== change.name && (await exists(session, 'pg_database', change.name))) {
      const rename = `ALTER DATABASE ${quoteIdentifier(change.name)} RENAME TO ${quoteIdentifier(change.newName)}`;
      await exclusively(session, change.name, rename);
    }
    const rows = await session.query(
      `SELECT pg_catalog.pg_get_userbyid(datdba)::text FROM pg_catalog.pg_database WHERE datname = ${quoteLiteral(change.newName)}`,
    );
    const owner = rows[0]?.[0];
    if (typeof owner === 'string' && owner !== change.owner) {
      await session.query(
        `ALTER DATABASE ${quoteIdentifier(change.newName)} OWNER TO ${quoteIdentifier(change.owner)}`,
      );
    }
    return owner;
  });
  if (typeof previousOwner === 'string' && previousOwner !== change.owner) {
    await sessions.inDatabase(change.newName, (session) => givePublicSchema(session, [previousOwner], change.owner));
  }
}

async function dropDatabase(sessions: Sessions, change: Change<'drop_database'>): Promise<void> {
  const database = quoteIdentifier(change.name);
  const found = await sessions.inPostgres((session) =>
    session.query(
      `SELECT datconnlimit::text, EXISTS (SELECT FROM pg_catalog.pg_subscription WHERE subdbid = d.oid)::text
       FROM pg_catalog.pg_database d WHERE datname = ${quoteLiteral(change.name)}`,
    ),
  );
  if (found.length === 0) return;
  const [connectionLimit, hasSubscriptions] = found[0]!;
  if (connectionLimit !== '-2') {
    await sessions.inPostgres((session) =>
      session.query(`ALTER DATABASE ${database} WITH IS_TEMPLATE false ALLOW_CONNECTIONS true`),
    );
    if (hasSubscriptions === 'true') await sessions.inDatabase(change.name, dropSubscriptions);
  }
  await sessions.inPostgres((session) =>
    exclusively(session, change.name, `DROP DATABASE IF EXISTS ${database} WITH (FORCE)`),
  );
}

/** Disconnects everybody from a database, its slots' walsenders too, until the statement finds it free. */
async function exclusively(session: InternalSession, database: string, statement: string): Promise<void> {
  const disconnect = `
    SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE datname = ${quoteLiteral(database)} AND pid <> pg_catalog.pg_backend_pid()
    UNION ALL
    SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots
    WHERE database = ${quoteLiteral(database)} AND active_pid IS NOT NULL`;
  for (let attempt = 1; ; attempt++) {
    await session.query(disconnect);
    try {
      await session.query(statement);
      return;
    } catch (error) {
      if ((error as { code?: unknown }).code !== OBJECT_IN_USE || attempt === EXCLUSIVE_ATTEMPTS) throw error;
    }
  }
}
