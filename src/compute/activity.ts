/**
 * Whether a compute is in use: a poll of pg_stat_activity, and what the proxy says about connections.
 *
 * A compute that had no connection since the last poll and was not busy then cannot have become busy, so it is not
 * asked again: hundreds of idle computes cost nothing. Ballast's own sessions never count.
 */
import type { InternalSession } from '../postgres/internal-session.ts';
import { firstWords } from './first-words.ts';
import { FINGERPRINT } from './roles-and-databases.ts';
import type { ClientProcess, ClientProcessKind, ComputeActivity } from './types.ts';

export interface ActivityFacts {
  /** Processes that are a reason to stay awake, and sessions that are none. */
  busyCount: number;
  idleCount: number;
  /** Of both, the busy ones first, then the latest used; no more than SHOWN. */
  processes: readonly ClientProcess[];
  /** Milliseconds since a client last did something, as far as sessions that are still open tell; undefined: none is open. */
  quietMs: number | undefined;
  fingerprint: string;
}

/**
 * Reasons to stay awake: a client that runs something or holds a transaction, a walsender of a client, a subscription
 * that receives, an autovacuum worker. `statement_timestamp` is the server's clock, as state_change is.
 */
const SHOWN = 20;
/** The words of a statement's beginning stand in there, behind a comment that may come first. */
const QUERY_HEAD_CHARACTERS = 300;
const ACTIVITY_SQL = `
  WITH seen AS MATERIALIZED (
    SELECT pid, usename, application_name, datname, backend_type, state, query,
           backend_type <> 'client backend' OR state IS DISTINCT FROM 'idle' AS keeps,
           CASE WHEN backend_type = 'client backend' THEN state_change ELSE backend_start END AS since,
           state_change
    FROM pg_catalog.pg_stat_activity
    WHERE usename IS DISTINCT FROM 'cloud_admin'
      AND backend_type IN ('client backend', 'walsender', 'autovacuum worker', 'logical replication worker',
                           'logical replication apply worker', 'logical replication parallel worker',
                           'logical replication tablesync worker'))
  SELECT pg_catalog.count(*) FILTER (WHERE keeps)::text,
         pg_catalog.floor(1000 * EXTRACT(epoch FROM pg_catalog.statement_timestamp()
           - pg_catalog.max(state_change) FILTER (WHERE backend_type = 'client backend')))::text,
         ${FINGERPRINT},
         pg_catalog.count(*)::text,
         (SELECT pg_catalog.json_agg(shown) FROM (
            SELECT seen.pid, keeps, usename AS role, application_name AS application, datname AS database,
                   backend_type AS type, state, slot_name AS slot, pg_catalog.left(query, ${QUERY_HEAD_CHARACTERS}) AS query,
                   pg_catalog.floor(1000 * EXTRACT(epoch FROM pg_catalog.statement_timestamp() - since)) AS ms
            FROM seen LEFT JOIN pg_catalog.pg_replication_slots ON active_pid = seen.pid
            ORDER BY keeps DESC, since DESC NULLS LAST LIMIT ${SHOWN}) shown)::text
  FROM seen`;

interface SeenProcess {
  pid: number;
  keeps: boolean;
  role: string | null;
  application: string | null;
  database: string | null;
  type: string;
  state: string | null;
  slot: string | null;
  query: string | null;
  ms: number | null;
}

/** `session` is in the database `postgres`. */
export async function pollActivity(session: InternalSession): Promise<ActivityFacts> {
  const [row] = await session.query(ACTIVITY_SQL);
  const [busy, quietMs, fingerprint, count, shown] = row!;
  return {
    busyCount: Number(busy),
    idleCount: Number(count) - Number(busy),
    processes: shown ? (JSON.parse(shown) as SeenProcess[]).map(toProcess) : [],
    quietMs: quietMs === null || quietMs === undefined ? undefined : Math.max(0, Number(quietMs)),
    fingerprint: fingerprint!,
  };
}

function toProcess({
  pid,
  keeps,
  role,
  application,
  database,
  type,
  state,
  slot,
  query,
  ms,
}: SeenProcess): ClientProcess {
  const kind = kindOf(type);
  return {
    kind,
    pid,
    keepsAwake: keeps,
    sinceMs: Math.max(0, ms ?? 0),
    ...(role !== null && { role }),
    ...(application && { applicationName: application }),
    ...(database !== null && { database }),
    ...(state !== null && kind === 'session' && { state }),
    ...(slot !== null && { slot }),
    ...(query && { query: kind === 'autovacuum' ? query : firstWords(query) }),
  };
}

function kindOf(backendType: string): ClientProcessKind {
  if (backendType === 'client backend') return 'session';
  if (backendType === 'walsender') return 'walsender';
  return backendType === 'autovacuum worker' ? 'autovacuum' : 'subscription';
}

/** What is known of one compute between polls. Times are of a clock that never jumps, in milliseconds. */
export class ActivityTracker {
  readonly #nowMs: () => number;
  #openConnections = 0;
  #touched = true;
  #lastActiveMs: number;
  /** When a client last did something: what only goes on is no sign of that. */
  #lastSignMs: number;
  #polledMs = 0;
  #latest: ActivityFacts | undefined;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
    this.#lastActiveMs = this.#lastSignMs = nowMs();
  }

  /** `no use`: the one that came or went was idle in a pool. */
  noteConnections(open: number, change: 'use' | 'no use' = 'use'): void {
    // Somebody came or went: both are a sign of life.
    if (open !== this.#openConnections && change === 'use') this.noteUse();
    this.#openConnections = open;
  }

  /** Something happened that the next poll shall see. */
  noteUse(): void {
    this.#touched = true;
    this.#lastActiveMs = this.#lastSignMs = this.#nowMs();
  }

  /** False while asking Postgres could tell nothing new. */
  needsPoll(): boolean {
    return this.#latest === undefined || this.#touched || this.#openConnections > 0 || this.#latest.busyCount > 0;
  }

  /** Called before the poll, so that what happens during it is not lost. */
  pollBegins(): void {
    this.#touched = false;
  }

  pollEnded(facts: ActivityFacts): void {
    const nowMs = this.#nowMs();
    this.#latest = facts;
    this.#polledMs = nowMs;
    if (facts.quietMs !== undefined) this.#lastSignMs = Math.max(this.#lastSignMs, nowMs - facts.quietMs);
    if (facts.busyCount > 0) this.#lastActiveMs = nowMs;
    else this.#lastActiveMs = Math.max(this.#lastActiveMs, this.#lastSignMs);
  }

  pollFailed(): void {
    this.#touched = true;
  }

  current(): Omit<ComputeActivity, 'endpointId'> | undefined {
    if (!this.#latest) return undefined;
    const { busyCount, idleCount, fingerprint, processes } = this.#latest;
    const busy = busyCount > 0;
    const since = (atMs: number) => Math.max(0, Math.round(this.#nowMs() - atMs));
    return {
      busy,
      fingerprint,
      idleMs: busy ? 0 : since(this.#lastActiveMs),
      quietMs: since(this.#lastSignMs),
      busyCount,
      idleCount,
      processes,
      processesAgeMs: since(this.#polledMs),
    };
  }
}
