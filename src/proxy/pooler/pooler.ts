/**
 * Pooled hosts: clients are welcomed from what is known of their endpoint, role and database, and share its pool.
 *
 * A pool logs in with the keys of the client that authenticated last. Only the first client of a pool waits for the
 * compute before it is welcomed, because what Postgres reports of itself is not known before.
 */
import type { ProxyAccess, ProxyEndpoint } from '../../control-plane/proxy-access.types.ts';
import type { Logger } from '../../lib/log.ts';
import { backendKeyData, errorResponse, message } from '../../postgres/wire/messages.ts';
import type { Authenticated } from '../authenticate.ts';
import { sendCancel } from '../cancel.ts';
import type { BackendKey, CancelKeys } from '../cancel.ts';
import type { LoginKeys } from '../compute-login.ts';
import type { ClientConnection } from '../connections.ts';
import type { Counts } from '../counts.ts';
import type { ProxyLimits } from '../limits.ts';
import type { ProxyObserver } from '../observer.ts';
import type { Opening } from '../opening.ts';
import { reachCompute } from '../reach-compute.ts';
import { PostgresRefusal, refusalBytes, refusals } from '../refusal.ts';
import type { RoleChanges } from '../role-changes.ts';
import { untilAborted } from '../until-aborted.ts';
import { pooledParameters } from './parameters.ts';
import { Pool } from './pool.ts';
import type { PoolStats } from './pool.ts';
import { PooledClient } from './pooled-client.ts';
import { ServerConnection } from './server-connection.ts';
import type { ServerOwner } from './server-connection.ts';
import { connectClient, connectServer } from './sockets.ts';
import { FROM_SERVER, HEADER, READY, lengthAt } from './wire.ts';

export interface PoolerContext {
  access: ProxyAccess;
  logger: Logger;
  limits: ProxyLimits;
  cancelKeys: CancelKeys;
  counts: Counts;
  roleChanges: RoleChanges;
  observer: ProxyObserver;
  nowMs: () => number;
}

export interface PooledLogin {
  opening: Opening;
  login: Authenticated;
  role: string;
  /** The startup packet. */
  given: ReadonlyMap<string, string>;
  /** What is left of its options. */
  options: string | undefined;
  connection: ClientConnection;
}

export type PoolerStats = PoolStats & { pools: number };

export interface Pooler {
  /** Resolves when the client has gone. Rejects with what it is to be told, before it was welcomed. */
  serve(client: PooledLogin): Promise<void>;
  /** Tells idle clients that it is over at once, the others after `graceMs` at the latest. */
  close(graceMs: number): Promise<void>;
  stats(): PoolerStats;
}

/** Of max_connections, for one role in one database. */
const POOL_SHARE = 0.9;
const MAX_STATEMENTS_PER_SERVER = 1000;
const TOO_MANY_CONNECTIONS = '53300';
const CLOSE_POLL_MS = 20;
const SHUTDOWN = errorResponse({
  severity: 'FATAL',
  code: '57P01',
  message: 'terminating connection due to administrator command',
});

interface Entry {
  key: string;
  endpoint: ProxyEndpoint;
  role: string;
  database: string;
  keys: LoginKeys;
  pool: Pool;
  /** What Postgres reported at the last login. */
  reported: Map<string, string>;
  backends: Map<ServerConnection, BackendKey>;
}

interface State {
  context: PoolerContext;
  pools: Map<string, Entry>;
  closing: AbortController;
}

export function createPooler(context: PoolerContext): Pooler {
  const state: State = { context, pools: new Map(), closing: new AbortController() };
  return {
    serve: (client) => serve(state, client),
    async close(graceMs) {
      const deadlineMs = performance.now() + graceMs;
      const clients = () => [...state.pools.values()].flatMap((entry) => [...entry.pool.clients]);
      do {
        for (const client of clients()) if (!client.server && !client.isWaiting) client.fail(SHUTDOWN);
        if (clients().length > 0) await new Promise((resolve) => setTimeout(resolve, CLOSE_POLL_MS));
      } while (clients().length > 0 && performance.now() < deadlineMs);
      state.closing.abort(refusals.unreachable());
      for (const { pool } of state.pools.values()) pool.close(SHUTDOWN);
    },
    stats: () => {
      const total = { clients: 0, waiting: 0, idle: 0, servers: 0, opening: 0, pools: state.pools.size };
      for (const { pool } of state.pools.values()) {
        for (const [name, value] of Object.entries(pool.stats())) total[name as keyof PoolStats] += value as number;
      }
      return total;
    },
  };
}

async function serve(state: State, { opening, login, role, given, options, connection }: PooledLogin): Promise<void> {
  const { context } = state;
  const { socket, reader } = opening;
  const { endpoint } = login;
  const wanted = pooledParameters(given, options);
  const release = context.counts.enterPool(endpoint);
  const entry = enter(state, { endpoint, role, database: given.get('database') || role, keys: login.keys });
  const { pool } = entry;
  const key = { revoke: (): void => undefined };
  const client = new PooledClient(socket, pool, pool.definitions, () => {
    key.revoke();
    pool.leave(client);
    release();
  });
  client.traffic = connection.traffic;
  connection.backend = () => client.server && entry.backends.get(client.server)?.processId;
  pool.clients.add(client);
  try {
    if (entry.reported.size === 0) await untilAborted(pool.warm(), reader.closed);
    if (reader.closed.aborted) throw reader.closed.reason as Error;
  } catch (error) {
    client.dismiss();
    throw error;
  }
  for (const [name, value] of [...entry.reported, ...wanted]) client.parameters.set(name, value);
  const own = context.cancelKeys.issue({ endpoint, send: () => pool.cancelFor(client) });
  key.revoke = own.revoke;
  reader.release();
  socket.write(
    Buffer.concat([
      login.accepted,
      greeting(entry.reported, client),
      backendKeyData(own.processId, own.secretKey),
      READY,
    ]),
  );
  await connectClient(socket, client);
}

function greeting(reported: ReadonlyMap<string, string>, client: PooledClient): Buffer {
  return Buffer.concat(
    [...reported].map(([name, value]) =>
      message(FROM_SERVER.parameterStatus, Buffer.from(`${name}\0${client.parameters.get(name) ?? value}\0`, 'latin1')),
    ),
  );
}

function enter(state: State, who: Pick<Entry, 'endpoint' | 'role' | 'database' | 'keys'>): Entry {
  const { endpoint, role, database } = who;
  const key = JSON.stringify([endpoint.endpointId, endpoint.point ?? null, role, database]);
  const known = state.pools.get(key);
  if (known) return Object.assign(known, { endpoint, keys: who.keys });
  const entry = { ...who, key, reported: new Map<string, string>(), backends: new Map() } as Omit<
    Entry,
    'pool'
  > as Entry;
  entry.pool = makePool(state, entry);
  state.pools.set(key, entry);
  return entry;
}

function makePool(state: State, entry: Entry): Pool {
  const { context } = state;
  return new Pool({
    limits: context.limits.pool,
    nowMs: context.nowMs,
    open: (owner) => open(state, entry, owner),
    maxServers: () => Math.max(1, Math.floor(POOL_SHARE * entry.endpoint.maxConnections)),
    makeRoom: () => closeIdleElsewhere(state, entry),
    isFull: (error) => error instanceof PostgresRefusal && error.code === TOO_MANY_CONNECTIONS,
    cancel: async (server) => {
      const backend = entry.backends.get(server);
      return backend ? sendCancel(backend) : true;
    },
    waited: (ms) => context.observer.poolWaited(ms),
    rolesChanged: () => context.roleChanges.note(entry.endpoint),
    errorBytes: (error) => {
      context.logger.debug({ err: error, endpointId: entry.endpoint.endpointId }, 'a pool found no compute');
      return refusalBytes(error);
    },
    onEmpty: () => {
      if (state.pools.get(entry.key) === entry) state.pools.delete(entry.key);
    },
  });
}

function closeIdleElsewhere(state: State, entry: Entry): boolean {
  const others = [...state.pools.values()].filter(
    (other) => other !== entry && other.endpoint.endpointId === entry.endpoint.endpointId,
  );
  return others.some(({ pool }) => pool.closeIdle());
}

async function open(state: State, entry: Entry, owner: ServerOwner): Promise<ServerConnection> {
  const { context } = state;
  const { role, database } = entry;
  // It may have been disabled, deleted or resized since the last client came.
  if (!entry.endpoint.point) {
    const endpoint = await context.access.endpoint(entry.endpoint.endpointId);
    if (!endpoint) throw refusals.unknownEndpoint();
    entry.endpoint = endpoint;
  }
  const { endpoint, keys } = entry;
  const parameters = new Map([
    ['user', role],
    ['database', database],
    ['client_encoding', 'UTF8'],
  ]);
  const { session, reached } = await reachCompute(
    context,
    { endpoint, keys },
    { parameters, role, closed: state.closing.signal },
  );
  const over = context.counts.openServer(endpoint);
  const server = new ServerConnection({
    wire: session.compute,
    owner,
    maxStatements: MAX_STATEMENTS_PER_SERVER,
    openedAtMs: context.nowMs(),
    onEnd: (used) => {
      entry.backends.delete(server);
      over(used);
      context.roleChanges.noteSessionEnd(endpoint);
    },
  });
  entry.backends.set(server, { address: reached, processId: session.processId, secretKey: session.secretKey });
  entry.reported = readReported(session.greeting);
  for (const [name, value] of entry.reported) server.parameters.set(name, value);
  connectServer(session.compute, server);
  return server;
}

function readReported(bytes: Buffer): Map<string, string> {
  const reported = new Map<string, string>();
  for (let at = 0; at + HEADER <= bytes.length; at += 1 + lengthAt(bytes, at + 1)) {
    if (bytes[at] !== FROM_SERVER.parameterStatus) continue;
    const end = at + 1 + lengthAt(bytes, at + 1);
    const [name, value] = bytes.toString('latin1', at + HEADER, end).split('\0');
    reported.set(name!, value!);
  }
  return reported;
}
