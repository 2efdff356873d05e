/**
 * What keeps a compute awake: the one judgement by which computes are suspended, and which `ballast why-awake` and the
 * endpoint's log tell.
 *
 * As with Neon, these keep it awake: a session that runs something or holds a transaction, a client's walsender, a
 * subscription that receives, an autovacuum worker. Idle sessions do not (they end with 57P01), nor do replication slots
 * that nobody reads, read replicas, and sessions that are idle in a pool.
 */
import type { ClientProcess, ComputeActivity } from '../compute/types.ts';

/** A client of the proxy. */
export interface ConnectedClient {
  id: string;
  kind: string;
  address: string;
  role: string;
  applicationName?: string | undefined;
  /** The process that serves it now. */
  backend(): number | undefined;
}

export type ProcessOfClient = ClientProcess & {
  connection?: { id: string; kind: string; address: string; applicationName?: string };
};

/** `never`: suspend_timeout_seconds is -1. `operation`: one is under way on its branch. */
export type Keeper = { kind: 'never' } | { kind: 'operation'; action?: string } | ProcessOfClient;

export interface Judgement {
  /** Empty: nothing but the time-out stands between it and its suspend. */
  keepers: Keeper[];
  /** Reasons that are not among `keepers`, because there are too many. */
  moreKeepers: number;
  /** The latest used of those that do not keep it awake. */
  idleSessions: ProcessOfClient[];
  idleSessionCount: number;
  /** Milliseconds until it is suspended if nothing happens; 0: now. Undefined while something keeps it awake. */
  suspendInMs: number | undefined;
  /** It would sleep by now, if nothing kept it awake. */
  overdue: boolean;
}

export interface Judged {
  activity: ComputeActivity;
  /** Infinity: never. */
  timeoutMs: number;
  /** The time-out by which an endpoint that never suspends is called overdue. */
  defaultTimeoutMs: number;
  operation: { action?: string } | undefined;
  clients: readonly ConnectedClient[];
}

/** 0 means the default, -1 never. */
export function suspendTimeoutMs(suspendTimeoutSeconds: number, defaultSeconds: number): number {
  const seconds = suspendTimeoutSeconds === 0 ? defaultSeconds : suspendTimeoutSeconds;
  return seconds < 0 ? Number.POSITIVE_INFINITY : seconds * 1_000;
}

export function judge(judged: Judged): Judgement {
  const { activity, timeoutMs, defaultTimeoutMs, operation, clients } = judged;
  const serving = new Map<number, ConnectedClient>();
  for (const client of clients) {
    const pid = client.backend();
    if (pid !== undefined) serving.set(pid, client);
  }
  const processes = activity.processes.map((process) => ofClient(process, serving.get(process.pid), activity));
  const busy = processes.filter(({ keepsAwake }) => keepsAwake);
  const idleSessions = processes.filter(({ keepsAwake }) => !keepsAwake);
  const keepers: Keeper[] = [];
  if (timeoutMs === Number.POSITIVE_INFINITY) keepers.push({ kind: 'never' });
  if (operation) keepers.push({ kind: 'operation', ...operation });
  keepers.push(...busy);
  const kept = keepers.length > 0 || activity.busy;
  return {
    keepers,
    moreKeepers: activity.busyCount - busy.length,
    idleSessions,
    idleSessionCount: activity.idleCount,
    suspendInMs: kept ? undefined : Math.max(0, timeoutMs - activity.idleMs),
    overdue: activity.quietMs >= (timeoutMs === Number.POSITIVE_INFINITY ? defaultTimeoutMs : timeoutMs),
  };
}

function ofClient(
  process: ClientProcess,
  client: ConnectedClient | undefined,
  { processesAgeMs }: ComputeActivity,
): ProcessOfClient {
  const seen = { ...process, sinceMs: process.sinceMs + processesAgeMs };
  if (!client) return seen;
  const { id, kind, address, applicationName } = client;
  return { ...seen, connection: { id, kind, address, ...(applicationName && { applicationName }) } };
}

/** One line for people. */
export function describeKeeper(keeper: Keeper): string {
  if (keeper.kind === 'never') return 'suspend_timeout_seconds is -1';
  if (keeper.kind === 'operation')
    return `an operation is under way on its branch${keeper.action ? `: ${keeper.action}` : ''}`;
  return describeProcess(keeper);
}

export function describeProcess(process: ProcessOfClient): string {
  const { connection } = process;
  const application = connection?.applicationName ?? process.applicationName;
  const facts = [
    process.role !== undefined && `role ${process.role}`,
    process.database !== undefined && `database ${process.database}`,
    application && `application ${application}`,
    connection && `${connection.kind} connection ${connection.id} from ${connection.address}`,
    `process ${process.pid}`,
  ];
  const text = `${whatItIs(process)} for ${describeMs(process.sinceMs)} (${facts.filter((fact) => fact).join(', ')})`;
  // Names are the tenant's, and the log has one line for each entry.
  // oxlint-disable-next-line no-control-regex
  return text.replaceAll(/[\u0000-\u001f\u007f]/g, '?');
}

function whatItIs({ kind, state, slot, query }: ProcessOfClient): string {
  switch (kind) {
    case 'session': {
      const what = state?.startsWith('idle') ? 'last query' : 'query';
      return `a session that is ${state ?? 'starting'}${query ? `, ${what} "${query} ...",` : ''}`;
    }
    case 'walsender':
      return slot === undefined ? 'a walsender' : `a walsender of replication slot ${slot}`;
    case 'subscription':
      return 'a subscription';
    case 'autovacuum':
      return query ? query : 'autovacuum';
  }
}

export function describeMs(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
