/**
 * What a Postgres knows outside of its databases, in a form that another of the same major can be made to know: roles
 * with attributes, passwords and memberships; databases with locale, privileges and comments; settings of both.
 * Ballast's own roles and databases are left out, but not that a role is a member of one.
 *
 * Only catalogs are read, and only role and database commands are written: nothing here runs code of a tenant.
 */
import { quoteIdentifier, quoteLiteral, type InternalSession } from './internal-session.ts';

export interface ClusterFacts {
  roles: RoleFacts[];
  memberships: MembershipFacts[];
  databases: DatabaseFacts[];
  settings: SettingFacts[];
}

export interface RoleFacts {
  name: string;
  verifier: string | null;
  inherit: boolean;
  createRole: boolean;
  createDatabase: boolean;
  login: boolean;
  replication: boolean;
  bypassRls: boolean;
  connectionLimit: number;
  validUntil: string | null;
  comment: string | null;
}

export interface MembershipFacts {
  role: string;
  member: string;
  admin: boolean;
  /** From 16 on. */
  inherit: boolean;
  set: boolean;
}

export interface DatabaseFacts {
  name: string;
  owner: string;
  /** Options of CREATE DATABASE; empty when it is as the template is. */
  locale: Record<string, string>;
  comment: string | null;
  /** A privilege each; `role` is null for everybody. Null: as a new database has them. */
  privileges: { role: string | null; privilege: string; grantable: boolean }[] | null;
}

export interface SettingFacts {
  database: string | null;
  role: string | null;
  name: string;
  value: string;
}

/** Settings whose value is a list of names. */
const LISTS = new Set(['search_path', 'local_preload_libraries', 'session_preload_libraries', 'temp_tablespaces']);

const visibleRole = (name: string) => `${name} NOT LIKE 'pg\\_%' AND ${name} NOT IN ('cloud_admin', 'neon_superuser')`;

/** `session` is in the database `postgres`; `databases` are those that count. */
export async function readClusterFacts(
  session: InternalSession,
  major: number,
  databases: readonly string[],
): Promise<ClusterFacts> {
  const list = async <T>(query: string): Promise<T[]> => {
    const [row] = await session.query(
      `SELECT COALESCE(pg_catalog.json_agg(pg_catalog.row_to_json(facts)), '[]')::text FROM (${query}) AS facts`,
    );
    return JSON.parse(row![0]!) as T[];
  };
  return {
    roles: await list<RoleFacts>(ROLES),
    memberships: await list<MembershipFacts>(memberships(major)),
    databases: (await list<DatabaseFacts>(databaseQuery(major))).filter(({ name }) => databases.includes(name)),
    settings: (await list<SettingFacts>(SETTINGS)).filter(
      ({ database }) => database === null || databases.includes(database),
    ),
  };
}

const ROLES = `
  SELECT rolname AS name, rolpassword AS verifier, rolinherit AS inherit, rolcreaterole AS "createRole",
    rolcreatedb AS "createDatabase", rolcanlogin AS login, rolreplication AS replication, rolbypassrls AS "bypassRls",
    rolconnlimit AS "connectionLimit", rolvaliduntil::text AS "validUntil",
    pg_catalog.shobj_description(oid, 'pg_authid') AS comment
  FROM pg_catalog.pg_authid WHERE ${visibleRole('rolname')} AND NOT rolsuper ORDER BY oid`;

function memberships(major: number): string {
  const option = (name: string, otherwise: string) =>
    major >= 16 ? `pg_catalog.bool_or(g.${name})` : `pg_catalog.bool_or(${otherwise})`;
  return `
    SELECT r.rolname AS role, m.rolname AS member, pg_catalog.bool_or(g.admin_option) AS admin,
      ${option('inherit_option', 'm.rolinherit')} AS inherit, ${option('set_option', 'true')} AS set
    FROM pg_catalog.pg_auth_members g
    JOIN pg_catalog.pg_authid r ON r.oid = g.roleid JOIN pg_catalog.pg_authid m ON m.oid = g.member
    WHERE ${visibleRole('m.rolname')} AND NOT m.rolsuper AND NOT r.rolsuper
    GROUP BY r.rolname, m.rolname ORDER BY r.rolname, m.rolname`;
}

/** Unlike template1's, the options are named as CREATE DATABASE has them. */
function databaseQuery(major: number): string {
  const locale = major >= 17 ? 'datlocale' : 'daticulocale';
  const options = [
    ['ENCODING', 'pg_catalog.pg_encoding_to_char(d.encoding)'],
    ['LC_COLLATE', 'd.datcollate::text'],
    ['LC_CTYPE', 'd.datctype::text'],
    ...(major >= 15
      ? [
          ['LOCALE_PROVIDER', `CASE d.datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END`],
          ['ICU_LOCALE', `CASE WHEN d.datlocprovider = 'i' THEN d.${locale} END`],
          ['BUILTIN_LOCALE', major >= 17 ? `CASE WHEN d.datlocprovider = 'b' THEN d.datlocale END` : 'NULL'],
        ]
      : []),
    ...(major >= 16 ? [['ICU_RULES', 'd.daticurules']] : []),
  ];
  const columns = ['encoding', 'datcollate', 'datctype'];
  if (major >= 15) columns.push('datlocprovider', locale);
  if (major >= 16) columns.push('daticurules');
  const differs = columns.map((column) => `d.${column} IS DISTINCT FROM t.${column}`).join(' OR ');
  const built = options.map(([name, value]) => `'${name}', ${value}`).join(', ');
  return `
    SELECT d.datname AS name, pg_catalog.pg_get_userbyid(d.datdba) AS owner,
      CASE WHEN ${differs} THEN pg_catalog.json_strip_nulls(pg_catalog.json_build_object(${built})) ELSE '{}' END AS locale,
      pg_catalog.shobj_description(d.oid, 'pg_database') AS comment,
      CASE WHEN d.datacl IS NOT NULL THEN
        (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
           'role', CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee) END,
           'privilege', a.privilege_type, 'grantable', a.is_grantable)), '[]')
         FROM pg_catalog.aclexplode(d.datacl) AS a WHERE a.grantee <> d.datdba) END AS privileges
    FROM pg_catalog.pg_database d JOIN pg_catalog.pg_database t ON t.datname = 'template1'
    WHERE d.datallowconn AND d.datconnlimit <> -2 ORDER BY d.oid`;
}

const SETTINGS = `
  SELECT d.datname AS database, r.rolname AS role,
    pg_catalog.substr(c.setting, 1, pg_catalog.strpos(c.setting, '=') - 1) AS name,
    pg_catalog.substr(c.setting, pg_catalog.strpos(c.setting, '=') + 1) AS value
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
  LEFT JOIN pg_catalog.pg_authid r ON r.oid = s.setrole
  CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c(setting)
  WHERE (s.setrole <> 0 OR s.setdatabase <> 0)
    AND (r.rolname IS NULL OR (${visibleRole('r.rolname')} AND NOT r.rolsuper))`;

/** For a Postgres that has none of them yet, or has them from an earlier try. */
export function roleStatements(facts: Pick<ClusterFacts, 'roles' | 'memberships'>, major: number): string[] {
  return [
    ...facts.roles.flatMap((role) => [
      `DO $do$ BEGIN CREATE ROLE ${quoteIdentifier(role.name)}; EXCEPTION WHEN duplicate_object THEN NULL; END $do$`,
      `ALTER ROLE ${quoteIdentifier(role.name)} ${attributes(role)}`,
      `COMMENT ON ROLE ${quoteIdentifier(role.name)} IS ${role.comment === null ? 'NULL' : quoteLiteral(role.comment)}`,
    ]),
    ...facts.memberships.map((membership) => membershipStatement(membership, major)),
  ];
}

function attributes(role: RoleFacts): string {
  const flag = (isSet: boolean, name: string) => (isSet ? name : `NO${name}`);
  return [
    flag(role.inherit, 'INHERIT'),
    flag(role.createRole, 'CREATEROLE'),
    flag(role.createDatabase, 'CREATEDB'),
    flag(role.login, 'LOGIN'),
    flag(role.replication, 'REPLICATION'),
    flag(role.bypassRls, 'BYPASSRLS'),
    `CONNECTION LIMIT ${role.connectionLimit}`,
    `PASSWORD ${role.verifier === null ? 'NULL' : quoteLiteral(role.verifier)}`,
    ...(role.validUntil === null ? [] : [`VALID UNTIL ${quoteLiteral(role.validUntil)}`]),
  ].join(' ');
}

function membershipStatement({ role, member, admin, inherit, set }: MembershipFacts, major: number): string {
  const grant = `GRANT ${quoteIdentifier(role)} TO ${quoteIdentifier(member)}`;
  if (major < 16) return admin ? `${grant} WITH ADMIN OPTION` : grant;
  return `${grant} WITH ADMIN ${admin}, INHERIT ${inherit}, SET ${set}`;
}

/** Undefined: as the template is, so that the usual way of making a database does. */
export function createDatabaseStatement(database: DatabaseFacts): string | undefined {
  const options = Object.entries(database.locale);
  if (options.length === 0) return undefined;
  const named = options.map(([name, value]) => `${name} ${quoteLiteral(value)}`);
  return `CREATE DATABASE ${quoteIdentifier(database.name)} TEMPLATE template0 ${named.join(' ')}`;
}

/** Once the database is there, whoever owns it and whatever was granted on it. */
export function databaseStatements(database: DatabaseFacts): string[] {
  const name = quoteIdentifier(database.name);
  const privileges = database.privileges ?? [
    { role: null, privilege: 'CONNECT', grantable: false },
    { role: null, privilege: 'TEMPORARY', grantable: false },
  ];
  return [
    `ALTER DATABASE ${name} OWNER TO ${quoteIdentifier(database.owner)}`,
    `REVOKE ALL ON DATABASE ${name} FROM PUBLIC, neon_superuser`,
    ...privileges.map(({ role, privilege, grantable }) => {
      const grantee = role === null ? 'PUBLIC' : quoteIdentifier(role);
      return `GRANT ${privilege} ON DATABASE ${name} TO ${grantee}${grantable ? ' WITH GRANT OPTION' : ''}`;
    }),
    `COMMENT ON DATABASE ${name} IS ${database.comment === null ? 'NULL' : quoteLiteral(database.comment)}`,
  ];
}

export function settingStatement({ database, role, name, value }: SettingFacts): string {
  const where = database === null ? '' : ` IN DATABASE ${quoteIdentifier(database)}`;
  const of = role === null ? `DATABASE ${quoteIdentifier(database!)}` : `ROLE ${quoteIdentifier(role)}${where}`;
  const values = LISTS.has(name.toLowerCase()) ? listItems(value) : [value];
  return `ALTER ${of} SET ${quoteIdentifier(name)} TO ${values.map(quoteLiteral).join(', ')}`;
}

/** `"$user", public` is two names. */
function listItems(value: string): string[] {
  const items = [...value.matchAll(/"((?:[^"]|"")*)"|[^,\s"]+/g)];
  const names = items.map(([whole, quoted]) => quoted?.replaceAll('""', '"') ?? whole);
  return names.length === 0 ? [''] : names;
}
