/**
 * What a compute's Postgres reads: postgresql.conf, pg_hba.conf, pg_ident.conf. Pure: a spec in, text out.
 *
 * The files live outside the data directory, owned by Ballast, so that neither a clone nor a tenant carries them along.
 * Order in postgresql.conf: our defaults, the endpoint's pg_settings, then what nobody may change. The last word wins,
 * and pg_settings that name a pinned parameter are left out as well.
 */
import { AppError } from '../lib/errors.ts';
import { isPreloadLibrary } from '../postgres/extensions.ts';
import { CLAIMS_FILE, claimsFile } from './claims-key.ts';
import { GIB, MIB, RESERVED_CONNECTIONS, maxConnections, memoryBytesOf } from './sizes.ts';
import type { ComputeSpec } from './types.ts';

export interface ConfigurationInput {
  spec: ComputeSpec;
  /** Where the socket is made; see sockets.ts. */
  socketDirectory: string;
  /** Shell command as PostgreSQL's archive_command. */
  archiveCommand: string;
  hostMemoryBytes: number;
  /** `recovery`: replays staged WAL without fsync, with nobody inside. `standby`: stays in recovery and answers. */
  phase: 'recovery' | 'running' | 'standby';
  /** For the phase `standby`. */
  standby?: StandbyInput;
  /** Which timeline id recovery follows; null: that of the data directory. */
  recoveryTimelineId: number | null;
  jwt: JwtInput;
  /** False keeps the launcher of subscription workers away, for clones that may hold somebody else's subscriptions. */
  subscriptionWorkers: boolean;
}

/** What it takes to let Ballast in as roles that JWTs stand for, and to believe what it says about a JWT. */
export interface JwtInput {
  /** See claims-key.ts. */
  key: Buffer;
  /** The operating-system user that Ballast runs as; undefined where it has no name. */
  user: string | undefined;
}

export interface StandbyInput {
  /** Undefined: it stays where its WAL ends. */
  source: { primaryConninfo: string; restoreCommand: string } | undefined;
  /** Lower bounds by name: what the primary has, or had. */
  atLeast: Record<string, number>;
}

type Settings = Record<string, string>;

function memorySettings(spec: ComputeSpec, hostMemoryBytes: number): Settings {
  const promisedBytes = Math.min(memoryBytesOf(spec.maxCu), hostMemoryBytes);
  const megabytes = (bytes: number) => `${Math.max(1, Math.floor(bytes / MIB))}MB`;
  const sharedBytes = Math.min(promisedBytes / 32, hostMemoryBytes / 8);
  return {
    // Costs nothing until touched; the operating system's cache does the rest.
    shared_buffers: megabytes(Math.max(sharedBytes, 16 * MIB)),
    effective_cache_size: megabytes(promisedBytes * 0.75),
    maintenance_work_mem: megabytes(Math.max(64 * MIB, Math.min(promisedBytes / 32, GIB))),
    temp_file_limit: megabytes(Math.max(8 * GIB, spec.maxCu * 8 * GIB)),
  };
}

/** May be overruled by pg_settings. */
function defaultSettings(input: ConfigurationInput): Settings {
  return {
    ...memorySettings(input.spec, input.hostMemoryBytes),
    jit: 'off',
    // A background writer that looks ten times less often keeps hundreds of idle computes quiet; backends write instead.
    // wal_writer_delay stays: it bounds what asynchronous commits may lose, and the WAL writer rests when idle anyway.
    bgwriter_delay: '2s',
    timezone: 'GMT',
    datestyle: 'iso, mdy',
    default_text_search_config: 'pg_catalog.english',
    lc_messages: 'C',
    lc_monetary: 'C',
    lc_numeric: 'C',
    lc_time: 'C',
    max_replication_slots: '10',
    // Each read replica takes one, and tenants' subscribers shall not lack them.
    max_wal_senders: '40',
    max_slot_wal_keep_size: '1GB',
    max_worker_processes: '8',
    max_locks_per_transaction: '64',
  };
}

/** What a standby has over the others: where its WAL comes from, and nothing less than its primary. */
function standbySettings({ source, atLeast }: StandbyInput, others: Settings): Settings {
  const raised = Object.entries(atLeast).map(([name, least]): [string, string] => [
    name,
    String(Math.max(least, Number(others[name] ?? 0))),
  ]);
  return {
    ...Object.fromEntries(raised),
    hot_standby: 'on',
    primary_conninfo: source?.primaryConninfo ?? '',
    primary_slot_name: '',
    restore_command: source?.restoreCommand ?? '',
    // A primary that is promoted goes on under a later timeline id.
    ...(source && { recovery_target_timeline: 'latest' }),
    // Also how often it looks for more WAL where there is none; the relay holds a follower while its primary is away.
    wal_retrieve_retry_interval: source ? '250ms' : '1h',
    hot_standby_feedback: 'off',
    archive_mode: 'off',
    archive_command: '',
    // Nothing here outlives a crash.
    fsync: 'off',
    max_logical_replication_workers: '0',
  };
}

/** Ours alone. `fsync` is here too: the only read-write compute without it has no client inside. */
function pinnedSettings(input: ConfigurationInput): Settings {
  const { spec } = input;
  const major = spec.pgVersion;
  return {
    cluster_name: spec.endpointId,
    listen_addresses: '',
    port: '5432',
    unix_socket_directories: input.socketDirectory,
    unix_socket_permissions: '0700',
    ssl: 'off',
    password_encryption: 'scram-sha-256',
    max_connections: String(maxConnections(spec.minCu, spec.maxCu)),
    superuser_reserved_connections: String(RESERVED_CONNECTIONS),

    fsync: input.phase === 'recovery' ? 'off' : 'on',
    full_page_writes: 'on',
    wal_level: spec.logicalReplication ? 'logical' : 'replica',
    // A recycled segment is an old file under a new name, and clones would pay for its content.
    wal_recycle: 'off',
    wal_init_zero: 'off',
    archive_mode: 'on',
    archive_command: input.archiveCommand,
    ...(major >= 15 && { archive_library: '' }),
    // A clone holds all the WAL that it shall replay; recovery needs some command, and `false` says: there is no more.
    restore_command: 'false',
    recovery_target_timeline: String(input.recoveryTimelineId ?? 'current'),
    // No queries during recovery, so that a clone may have fewer connections than its parent.
    hot_standby: 'off',
    // Prepared transactions would be cloned, with their locks and without their owner.
    max_prepared_transactions: '0',
    max_logical_replication_workers: input.subscriptionWorkers && subscriptionsPossible(major) ? '4' : '0',
    restart_after_crash: 'on',

    huge_pages: 'off',
    ...(major >= 18 && { io_method: 'sync' }),

    shared_preload_libraries: preloadList(spec.preloadLibraries),
    session_preload_libraries: '',
    local_preload_libraries: '',
    dynamic_library_path: '$libdir',
    ...(major >= 17 && { allow_alter_system: 'off' }),
    ...(major >= 18 && { extension_control_path: '$system' }),

    // Statements can hold passwords, and details hold rows: neither belongs into a log.
    logging_collector: 'off',
    log_destination: 'stderr',
    log_line_prefix: '%m [%p] ',
    log_timezone: 'UTC',
    log_statement: 'none',
    log_min_duration_statement: '-1',
    log_min_duration_sample: '-1',
    log_transaction_sample_rate: '0',
    log_min_error_statement: 'panic',
    log_error_verbosity: 'terse',
    log_parameter_max_length: '0',
    log_parameter_max_length_on_error: '0',
    log_duration: 'off',
    log_checkpoints: 'off',
    log_autovacuum_min_duration: '-1',
    debug_print_parse: 'off',
    debug_print_rewritten: 'off',
    debug_print_plan: 'off',
  };
}

/** Before 16 only superusers create subscriptions, and tenants are none. */
export function subscriptionsPossible(major: number): boolean {
  return major >= 16;
}

function preloadList(libraries: readonly string[]): string {
  const strange = libraries.find((library) => !isPreloadLibrary(library));
  if (strange !== undefined) {
    throw new AppError('unprocessable', `library "${strange}" cannot be preloaded`);
  }
  return libraries.join(',');
}

/** Throws AppError 'unprocessable' for a preload library or a pg_setting that cannot be written. */
export function postgresqlConf(input: ConfigurationInput): string {
  const defaults = defaultSettings(input);
  const common = pinnedSettings(input);
  const asked = Object.entries(input.spec.pgSettings).map(([name, value]): [string, string] => [
    name.toLowerCase(),
    value,
  ]);
  const others = { ...defaults, ...Object.fromEntries(asked), ...common };
  const pinned = input.standby ? { ...common, ...standbySettings(input.standby, others) } : common;
  const own = asked.filter(([name]) => !(name in pinned));
  return [
    '# Written by Ballast at each start.',
    ...Object.entries(defaults).map(settingLine),
    ...own.map(settingLine),
    ...Object.entries(pinned).map(settingLine),
    '',
  ].join('\n');
}

function settingLine([name, value]: [string, string]): string {
  // A dot makes a parameter of an extension; includes and anything with other characters never get through.
  const isName = /^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$/.test(name) && !name.startsWith('include');
  if (!isName || /[\n\r\0]/.test(value)) {
    throw new AppError('unprocessable', `invalid value for parameter "${name.slice(0, 63)}"`);
  }
  return `${name} = '${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}

const JWT_MAP = 'ballast';

/**
 * One way in: the Unix socket, with a secret. Physical replication is for replication-relay.ts, which logs in as
 * cloud_admin, and closed to everybody else; the proxy filters the logical kind. Roles that JWTs stand for need no
 * password from Ballast's own user: the proxy has checked the JWT, or the password.
 */
function pgHbaConf(jwtRoles: readonly string[], user: string | undefined): string {
  const lines = [
    'local replication cloud_admin scram-sha-256',
    'local replication all reject',
    ...jwtRoles.map((role) => `local all "${role}" ${user === undefined ? 'trust' : `peer map=${JWT_MAP}`}`),
    'local all all scram-sha-256',
  ];
  return [...lines, ''].join('\n');
}

/** Names mean themselves inside of quotes, but for these; and nobody logs in as a superuser like this. */
function isJwtRole(name: string): boolean {
  return !/["\\\n\r\0]|^[/+@]/.test(name) && !name.startsWith('pg_') && name !== 'cloud_admin';
}

/** The files that change with the roles of JWTs. pg_session_jwt reads the last one. */
export function accessFiles({ jwtRoles = [] }: ComputeSpec, { key, user }: JwtInput): Record<string, string> {
  const roles = jwtRoles.filter(isJwtRole);
  const mapped = user === undefined ? [] : roles.map((role) => `${JWT_MAP} "${user}" "${role}"`);
  return {
    'pg_hba.conf': pgHbaConf(roles, user),
    'pg_ident.conf': [...mapped, ''].join('\n'),
    [CLAIMS_FILE]: claimsFile(key, roles),
  };
}

/** Files of the configuration directory by name. */
export function configurationFiles(input: ConfigurationInput): Record<string, string> {
  return { 'postgresql.conf': postgresqlConf(input), ...accessFiles(input.spec, input.jwt) };
}

/** After `-D <data directory>`. */
export function serverArguments(configurationDirectory: string): string[] {
  const file = (name: string) => `${configurationDirectory}/${name}`;
  return [
    ...['-c', `config_file=${file('postgresql.conf')}`],
    ...['-c', `hba_file=${file('pg_hba.conf')}`],
    ...['-c', `ident_file=${file('pg_ident.conf')}`],
  ];
}
