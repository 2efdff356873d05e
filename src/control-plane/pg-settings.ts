/**
 * The Postgres parameters that `pg_settings` may set, and what values they take. It is an allow list: everything that
 * could reach the host (libraries, commands, files, sockets, logs), another compute, or Ballast's own hold on Postgres
 * (connections, authentication, WAL, memory that follows the compute's size) is not on it.
 *
 * Values are checked as Postgres itself would, so that a wrong one is refused here and not at the next start.
 * Left out although harmless in a session: parameters whose values cannot be checked without a server (tablespaces,
 * locales), and those that would keep a child branch from recovering (max_prepared_transactions).
 */
import { invalidRequest } from './errors.ts';
import { LIMITS } from './limits.ts';

type Unit = 'B' | 'kB' | '8kB' | 'ms' | 's';

interface Range {
  min: number;
  max: number;
  unit?: Unit;
}

type Rule =
  | { kind: 'boolean' }
  | ({ kind: 'integer' | 'real' } & Range)
  | { kind: 'enum'; values: readonly string[] }
  | { kind: 'text'; accepts: (value: string) => boolean };

const BOOLEANS =
  `array_nulls autovacuum default_transaction_deferrable default_transaction_read_only enable_async_append
  enable_bitmapscan enable_gathermerge enable_group_by_reordering enable_hashagg enable_hashjoin enable_incremental_sort
  enable_indexonlyscan enable_indexscan enable_material enable_memoize enable_mergejoin enable_nestloop
  enable_parallel_append enable_parallel_hash enable_partition_pruning enable_partitionwise_aggregate
  enable_partitionwise_join enable_presorted_aggregate enable_seqscan enable_sort enable_tidscan escape_string_warning
  geqo jit parallel_leader_participation quote_all_identifiers synchronize_seqscans track_activities
  track_commit_timestamp track_counts track_io_timing track_wal_io_timing transform_null_equals
  pg_stat_statements.track_utility pg_stat_statements.track_planning pg_stat_statements.save`.split(/\s+/);

const INT_MAX = 2_147_483_647;

// Upper bounds of what is allocated at start are lower than Postgres' own; lower bounds keep what clones and slots need.
const INTEGERS: Record<string, readonly [min: number, max: number, unit?: Unit]> = {
  autovacuum_analyze_threshold: [0, INT_MAX],
  autovacuum_max_workers: [1, 64],
  autovacuum_naptime: [1, 2_147_483, 's'],
  autovacuum_vacuum_cost_limit: [-1, 10_000],
  autovacuum_vacuum_insert_threshold: [-1, INT_MAX],
  autovacuum_vacuum_threshold: [0, INT_MAX],
  autovacuum_work_mem: [-1, INT_MAX, 'kB'],
  commit_siblings: [0, 1000],
  deadlock_timeout: [1, INT_MAX, 'ms'],
  default_statistics_target: [1, 10_000],
  extra_float_digits: [-15, 3],
  from_collapse_limit: [1, INT_MAX],
  geqo_effort: [1, 10],
  geqo_generations: [0, INT_MAX],
  geqo_pool_size: [0, INT_MAX],
  geqo_threshold: [2, INT_MAX],
  gin_fuzzy_search_limit: [0, INT_MAX],
  gin_pending_list_limit: [64, INT_MAX, 'kB'],
  idle_in_transaction_session_timeout: [0, INT_MAX, 'ms'],
  idle_session_timeout: [0, INT_MAX, 'ms'],
  join_collapse_limit: [1, INT_MAX],
  lock_timeout: [0, INT_MAX, 'ms'],
  logical_decoding_work_mem: [64, INT_MAX, 'kB'],
  maintenance_work_mem: [1024, INT_MAX, 'kB'],
  max_locks_per_transaction: [10, 10_000],
  max_logical_replication_workers: [0, 256],
  max_parallel_maintenance_workers: [0, 1024],
  max_parallel_workers: [0, 1024],
  max_parallel_workers_per_gather: [0, 1024],
  max_pred_locks_per_transaction: [10, 10_000],
  max_replication_slots: [10, 1000],
  max_sync_workers_per_subscription: [0, 256],
  max_wal_senders: [10, 1000],
  max_worker_processes: [8, 1024],
  min_parallel_index_scan_size: [0, 715_827_882, '8kB'],
  min_parallel_table_scan_size: [0, 715_827_882, '8kB'],
  'pg_stat_statements.max': [100, 1_000_000],
  statement_timeout: [0, INT_MAX, 'ms'],
  temp_buffers: [100, 1_073_741_823, '8kB'],
  temp_file_limit: [-1, INT_MAX, 'kB'],
  track_activity_query_size: [100, 1_048_576, 'B'],
  vacuum_cost_limit: [1, 10_000],
  vacuum_cost_page_dirty: [0, 10_000],
  vacuum_cost_page_hit: [0, 10_000],
  vacuum_cost_page_miss: [0, 10_000],
  vacuum_failsafe_age: [0, 2_100_000_000],
  vacuum_freeze_min_age: [0, 1_000_000_000],
  vacuum_freeze_table_age: [0, 2_000_000_000],
  vacuum_multixact_failsafe_age: [0, 2_100_000_000],
  vacuum_multixact_freeze_min_age: [0, 1_000_000_000],
  vacuum_multixact_freeze_table_age: [0, 2_000_000_000],
  wal_sender_timeout: [0, INT_MAX, 'ms'],
  wal_skip_threshold: [0, INT_MAX, 'kB'],
  work_mem: [64, INT_MAX, 'kB'],
};

const REAL_MAX = 1.79769e308;

const REALS: Record<string, readonly [min: number, max: number, unit?: Unit]> = {
  autovacuum_analyze_scale_factor: [0, 100],
  autovacuum_vacuum_cost_delay: [-1, 100, 'ms'],
  autovacuum_vacuum_insert_scale_factor: [0, 100],
  autovacuum_vacuum_scale_factor: [0, 100],
  cpu_index_tuple_cost: [0, REAL_MAX],
  cpu_operator_cost: [0, REAL_MAX],
  cpu_tuple_cost: [0, REAL_MAX],
  cursor_tuple_fraction: [0, 1],
  geqo_seed: [0, 1],
  geqo_selection_bias: [1.5, 2],
  hash_mem_multiplier: [1, 1000],
  jit_above_cost: [-1, REAL_MAX],
  jit_inline_above_cost: [-1, REAL_MAX],
  jit_optimize_above_cost: [-1, REAL_MAX],
  parallel_setup_cost: [0, REAL_MAX],
  parallel_tuple_cost: [0, REAL_MAX],
  random_page_cost: [0, REAL_MAX],
  recursive_worktable_factor: [0.001, 1_000_000],
  seq_page_cost: [0, REAL_MAX],
  vacuum_cost_delay: [0, 100, 'ms'],
};

const ON_OFF = ['on', 'off', 'true', 'false', 'yes', 'no', '1', '0'];

const ENUMS: Record<string, readonly string[]> = {
  backslash_quote: ['safe_encoding', ...ON_OFF],
  bytea_output: ['escape', 'hex'],
  client_min_messages: ['debug5', 'debug4', 'debug3', 'debug2', 'debug1', 'log', 'notice', 'warning', 'error'],
  compute_query_id: ['auto', 'regress', ...ON_OFF],
  constraint_exclusion: ['partition', ...ON_OFF],
  default_transaction_isolation: ['serializable', 'repeatable read', 'read committed', 'read uncommitted'],
  IntervalStyle: ['postgres', 'postgres_verbose', 'sql_standard', 'iso_8601'],
  'pg_stat_statements.track': ['none', 'top', 'all'],
  plan_cache_mode: ['auto', 'force_generic_plan', 'force_custom_plan'],
  stats_fetch_consistency: ['none', 'cache', 'snapshot'],
  synchronous_commit: ['local', 'remote_write', 'remote_apply', ...ON_OFF],
  track_functions: ['none', 'pl', 'all'],
  xmlbinary: ['base64', 'hex'],
  xmloption: ['content', 'document'],
};

const IDENTIFIER = String.raw`(?:"[^"]{1,63}"|[A-Za-z_][A-Za-z0-9_$]{0,62})`;

const TEXTS: Record<string, (value: string) => boolean> = {
  DateStyle: matches(/^(iso|sql|postgres|german)(\s*,\s*(dmy|mdy|ymd))?$/i),
  default_text_search_config: matches(/^[A-Za-z_]{1,63}(\.[A-Za-z_]{1,63})?$/),
  search_path: matches(new RegExp(String.raw`^(${IDENTIFIER}(\s*,\s*${IDENTIFIER})*)?$`)),
  TimeZone: isTimeZone,
};

/** First major that has the parameter, where that is not all of them. */
const SINCE: Record<string, number> = {
  enable_group_by_reordering: 17,
  enable_presorted_aggregate: 16,
  recursive_worktable_factor: 15,
  stats_fetch_consistency: 15,
};

/** Every parameter that may be set, as Postgres spells it. */
export const ALLOWED_PARAMETERS: readonly string[] = [
  ...BOOLEANS,
  ...[INTEGERS, REALS, ENUMS, TEXTS].flatMap((table) => Object.keys(table)),
].sort();

/**
 * Returns the settings with names spelled as Postgres does. Throws 'invalid' naming the parameter that may not be set
 * or whose value Postgres would refuse.
 */
export function validatePgSettings(settings: Record<string, string>, pgVersion: number): Record<string, string> {
  const entries = Object.entries(settings);
  if (entries.length > LIMITS.pgSettings) throw invalidRequest('too many pg_settings', { max: LIMITS.pgSettings });
  return Object.fromEntries(
    entries.map(([given, value]) => {
      const name = canonicalName(given);
      if (name === undefined) throw invalidRequest('this pg_settings parameter cannot be set', { name: given });
      const since = SINCE[name] ?? 14;
      if (pgVersion < since) {
        throw invalidRequest("this pg_settings parameter does not exist in the project's PostgreSQL", {
          name,
          pg_version: pgVersion,
        });
      }
      const problem = check(ruleOf(name)!, value);
      if (problem) throw invalidRequest(`pg_settings parameter ${problem}`, { name, value: value.slice(0, 100) });
      return [name, value];
    }),
  );
}

/** The parameter's two ends in its base unit; undefined where it has none. Tests hold them against Postgres. */
export function parameterRange(name: string): Range | undefined {
  const rule = ruleOf(name);
  return rule?.kind === 'integer' || rule?.kind === 'real' ? rule : undefined;
}

function canonicalName(given: string): string | undefined {
  return ALLOWED_PARAMETERS.find((name) => name.toLowerCase() === given.toLowerCase());
}

function ruleOf(name: string): Rule | undefined {
  if (BOOLEANS.includes(name)) return { kind: 'boolean' };
  const integer = INTEGERS[name];
  if (integer) return { kind: 'integer', min: integer[0], max: integer[1], unit: integer[2] };
  const real = REALS[name];
  if (real) return { kind: 'real', min: real[0], max: real[1], unit: real[2] };
  const values = ENUMS[name];
  if (values) return { kind: 'enum', values };
  const accepts = TEXTS[name];
  return accepts && { kind: 'text', accepts };
}

/** What is wrong with the value; undefined when nothing is. */
function check(rule: Rule, value: string): string | undefined {
  switch (rule.kind) {
    case 'boolean':
      return ON_OFF.includes(value.toLowerCase()) ? undefined : 'must be on or off';
    case 'enum':
      return rule.values.includes(value.toLowerCase()) ? undefined : `must be one of ${rule.values.join(', ')}`;
    case 'text':
      return value.length <= 1000 && rule.accepts(value) ? undefined : 'has an invalid value';
    case 'integer':
    case 'real': {
      const number = parseNumber(value, rule);
      if (number === undefined) return `must be a number${rule.unit ? ' with or without a unit' : ''}`;
      const compared = rule.kind === 'integer' ? Math.round(number) : number;
      const inRange = compared >= rule.min && compared <= rule.max;
      return inRange ? undefined : `must be from ${rule.min} to ${rule.max}${rule.unit ? ` (${rule.unit})` : ''}`;
    }
  }
}

const BYTES: Record<string, number> = { B: 1, kB: 2 ** 10, '8kB': 2 ** 13, MB: 2 ** 20, GB: 2 ** 30, TB: 2 ** 40 };
const MILLISECONDS: Record<string, number> = { us: 0.001, ms: 1, s: 1e3, min: 6e4, h: 3.6e6, d: 8.64e7 };

/** In the rule's unit, as Postgres reads it: units are case-sensitive and convert within their family. */
function parseNumber(text: string, rule: Range & { kind: 'integer' | 'real' }): number | undefined {
  const match = /^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*$/.exec(text);
  if (!match) return undefined;
  const number = Number(match[1]);
  const unit = match[2]!;
  // Without a unit, Postgres takes whole numbers only for integers.
  if (unit === '') return rule.kind === 'integer' && !Number.isInteger(number) ? undefined : number;
  if (rule.unit === undefined) return undefined;
  const family = rule.unit in BYTES ? BYTES : MILLISECONDS;
  const factor = unit === '8kB' ? undefined : family[unit];
  return factor === undefined ? undefined : (number * factor) / family[rule.unit]!;
}

function matches(pattern: RegExp): (value: string) => boolean {
  return (value) => pattern.test(value);
}

/** Names only: an unknown one would keep Postgres from starting. */
function isTimeZone(value: string): boolean {
  if (!/^[A-Za-z][A-Za-z0-9_+/-]*$/.test(value)) return false;
  try {
    new Intl.DateTimeFormat('en', { timeZone: value });
    return true;
  } catch {
    return false;
  }
}
