/**
 * Whether a compute is in use: a poll of pg_stat_activity, and what the proxy says about connections.
 *
 * A compute that had no connection since the last poll and was not busy then cannot have become busy, so it is not
 * asked again: hundreds of idle computes cost nothing. Ballast's own sessions never count.
 */
import type { InternalSession } from '../postgres/internal-session.ts';
import { FINGERPRINT } from './roles-and-databases.ts';

export interface ActivityFacts {
  busy: boolean;
  /** Milliseconds since a client last did something, as far as sessions that are still open tell; undefined: none is open. */
  quietMs: number | undefined;
  fingerprint: string;
}

/**
 * Reasons to stay awake: a client that runs something or holds a transaction, a walsender of a client, a subscription
 * that receives, an autovacuum worker. `statement_timestamp` is the server's clock, as state_change is.
 */
const ACTIVITY_SQL = `
  SELECT pg_catalog.count(*) FILTER (WHERE
           (backend_type = 'client backend' AND state IS DISTINCT FROM 'idle')
           OR backend_type IN ('walsender', 'autovacuum worker', 'logical replication worker',
                               'logical replication apply worker', 'logical replication parallel worker',
                               'logical replication tablesync worker'))::text,
         pg_catalog.floor(1000 * EXTRACT(epoch FROM pg_catalog.statement_timestamp()
           - pg_catalog.max(state_change) FILTER (WHERE backend_type = 'client backend')))::text,
         ${FINGERPRINT}
  FROM pg_catalog.pg_stat_activity
  WHERE usename IS DISTINCT FROM 'cloud_admin'`;

/** `session` is in the database `postgres`. */
export async function pollActivity(session: InternalSession): Promise<ActivityFacts> {
  const [row] = await session.query(ACTIVITY_SQL);
  const [busy, quietMs, fingerprint] = row!;
  return {
    busy: busy !== '0',
    quietMs: quietMs === null || quietMs === undefined ? undefined : Math.max(0, Number(quietMs)),
    fingerprint: fingerprint!,
  };
}

/** What is known of one compute between polls. Times are of a clock that never jumps, in milliseconds. */
export class ActivityTracker {
  readonly #nowMs: () => number;
  #openConnections = 0;
  #touched = true;
  #lastActiveMs: number;
  #latest: ActivityFacts | undefined;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
    this.#lastActiveMs = nowMs();
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
    this.#lastActiveMs = this.#nowMs();
  }

  /** False while asking Postgres could tell nothing new. */
  needsPoll(): boolean {
    return this.#latest === undefined || this.#touched || this.#openConnections > 0 || this.#latest.busy;
  }

  /** Called before the poll, so that what happens during it is not lost. */
  pollBegins(): void {
    this.#touched = false;
  }

  pollEnded(facts: ActivityFacts): void {
    const nowMs = this.#nowMs();
    this.#latest = facts;
    if (facts.busy) this.#lastActiveMs = nowMs;
    else if (facts.quietMs !== undefined) this.#lastActiveMs = Math.max(this.#lastActiveMs, nowMs - facts.quietMs);
  }

  pollFailed(): void {
    this.#touched = true;
  }

  current(): { busy: boolean; idleMs: number; fingerprint: string } | undefined {
    if (!this.#latest) return undefined;
    const { busy, fingerprint } = this.#latest;
    return { busy, fingerprint, idleMs: busy ? 0 : Math.max(0, Math.round(this.#nowMs() - this.#lastActiveMs)) };
  }
}
