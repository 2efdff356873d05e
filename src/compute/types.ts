/**
 * What compute takes and gives: plain specs in, facts out. Compute never sees the catalog.
 *
 * A compute is the running Postgres of an endpoint: one process tree, one Unix socket, known by its endpoint id.
 */
import type { Stopwatch } from '../lib/stopwatch.ts';
import type { FileOwner, TimelinePoint, TimelineRef } from '../storage/types.ts';

export interface ComputeSpec {
  endpointId: string;
  timeline: TimelineRef;
  pgVersion: number;
  owner: FileOwner | undefined;
  /** Compute units, see sizes.ts. What Postgres fixes at its start follows these; limits.ts moves between them. */
  minCu: number;
  maxCu: number;
  /** Validated `pg_settings` of the endpoint (over the project's defaults). */
  pgSettings: Record<string, string>;
  /** shared_preload_libraries, already checked against the allow list. */
  preloadLibraries: readonly string[];
  /** wal_level=logical. */
  logicalReplication: boolean;
  /** Roles that Ballast logs in as without a password, for whoever has shown a JWT. Changes need no restart. */
  jwtRoles?: readonly string[];
  /** Undefined: a read-write compute. */
  standby?: StandbySpec;
}

/**
 * A read-only compute. Its timeline is made anew from `of` at each start and removed at each stop. At `head` it
 * follows the read-write compute of that timeline by streaming; at an LSN it stays there.
 */
export interface StandbySpec {
  of: TimelineRef;
  point: TimelinePoint;
  /**
   * The read-write endpoint: a standby must not have less of what its primary says in WAL than that has. `pgSettings`
   * are those of SIZE_SETTINGS.
   */
  primary: { minCu: number; maxCu: number; pgSettings: Record<string, string> };
}

/** Settings that a primary writes into WAL; a standby with less stops replaying. max_connections follows the size. */
export const SIZE_SETTINGS = ['max_worker_processes', 'max_wal_senders', 'max_locks_per_transaction'] as const;

export interface ComputeAddress {
  /** Directory of the Unix socket; the file is `.s.PGSQL.5432`. */
  socketDirectory: string;
  port: number;
  /** Signs claims of JWTs; see claims-key.ts. */
  claimsKey?: Buffer;
}

/** A pending change inside Postgres, each idempotent. Applied in the order given. */
export type ComputeChange =
  /** `plain`: no member of neon_superuser, and no attribute but LOGIN. */
  | { kind: 'create_role'; name: string; verifier: string | null; noLogin: boolean; plain?: boolean }
  | { kind: 'set_verifier'; name: string; verifier: string }
  | { kind: 'drop_role'; name: string }
  | { kind: 'create_database'; name: string; owner: string }
  | { kind: 'alter_database'; name: string; newName: string; owner: string }
  | { kind: 'drop_database'; name: string };

/** What pg_authid and pg_database say, internal ones left out. */
export interface RolesAndDatabases {
  roles: { name: string; verifier: string | null; canLogin: boolean }[];
  databases: { name: string; owner: string }[];
  /** Changes when any of the above does. */
  fingerprint: string;
}

/** `walsender`: of a client that replicates. `subscription`: a worker that receives what another Postgres publishes. */
export type ClientProcessKind = 'session' | 'walsender' | 'subscription' | 'autovacuum';

/** A process of a compute that works for a client, or for its data. */
export interface ClientProcess {
  kind: ClientProcessKind;
  pid: number;
  keepsAwake: boolean;
  role?: string;
  applicationName?: string;
  database?: string;
  /** Of a session: as pg_stat_activity says. */
  state?: string;
  /** For how long a session has been in its state, and others have run. */
  sinceMs: number;
  slot?: string;
  /** The first words of what it runs or ran last: no literals. */
  query?: string;
}

export interface ComputeActivity {
  endpointId: string;
  /** Client backends that are active, in a transaction, or walsenders of a client: a reason to stay awake. */
  busy: boolean;
  /** Milliseconds since anything of a client last happened; 0 while it is busy. */
  idleMs: number;
  /** The same, but what only goes on (a long query, an open transaction, replication) does not count. */
  quietMs: number;
  /** As of the latest poll: how many keep it awake, how many sessions do not, and the most telling of both. */
  busyCount: number;
  idleCount: number;
  processes: readonly ClientProcess[];
  /** Milliseconds since that poll. */
  processesAgeMs: number;
  /** As in RolesAndDatabases, from the latest poll. Empty for a standby, whose roles are those of its primary. */
  fingerprint: string;
}

/**
 * The engine's compute half. All methods are idempotent.
 * Errors: AppError 'not_found' (no such compute), 'unavailable' (did not start in time), 'unprocessable' (setting refused).
 */
export interface Supervisor {
  /**
   * Starts Postgres on the timeline, finishes recovery of a fresh clone, applies `changes`, and returns when clients
   * may enter. Already running with the same spec: applies `changes` only. Running with another spec: restarts.
   * A standby's timeline is made first, and a standby takes no changes. `watch` gets the laps `prepare` and `postgres`.
   */
  start(spec: ComputeSpec, changes: readonly ComputeChange[], watch?: Stopwatch): Promise<ComputeAddress>;
  /**
   * Clean shutdown (fast, then immediate after a deadline). No error when it is not running. The timeline of a standby
   * goes with it.
   */
  suspend(endpointId: string): Promise<void>;
  /** Runs changes on a running compute; throws 'not_found' when it is not running. */
  applyChanges(endpointId: string, changes: readonly ComputeChange[]): Promise<void>;
  rolesAndDatabases(endpointId: string): Promise<RolesAndDatabases>;
  /** One statement on the shared cloud_admin session in `postgres`; throws 'not_found' when it is not running. */
  query(endpointId: string, sql: string): Promise<(string | null)[][]>;
  /** Undefined when it is not running. Never blocks. */
  address(endpointId: string): ComputeAddress | undefined;
  /** Polls computes that had connections since the last poll; `fresh`: the others as well. */
  activity(endpointId: string, options?: { fresh?: boolean }): Promise<ComputeActivity | undefined>;
  /** The proxy tells how many client connections are open; a compute without any is not polled. */
  noteConnections(endpointId: string, open: number, change?: 'use' | 'no use'): void;
  /** Writes lines into the endpoint's log, between those of Postgres. Does not wait, and never throws. */
  note(endpointId: string, lines: readonly string[]): void;
  /**
   * Compute units that each running compute has now, by endpoint id; where computes have no limits, the maximum. Reads
   * nothing.
   */
  sizes(): ReadonlyMap<string, number>;
  running(): readonly string[];
  /** What a running compute runs on, whatever the rows say by now. */
  timelineOf(endpointId: string): TimelineRef | undefined;
  /** Finds computes that outlived a crash of Ballast (by postmaster.pid) and takes them over. */
  adopt(): Promise<readonly string[]>;
  /** Called for each compute that clients may enter from now on. */
  onStart(listener: (endpointId: string) => void): void;
  /** Called for each compute that ended without being asked to. */
  onExit(listener: (endpointId: string) => void): void;
  /** Stops every compute; used at shutdown. */
  stopAll(): Promise<void>;
}
