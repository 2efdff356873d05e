/**
 * Connections to computes that SQL over HTTP keeps between requests: so many per endpoint, by role, database and
 * verifier. One that comes back is reset before anybody else gets it; one that is in doubt is closed.
 *
 * Who waits is served in the order of coming, and nobody who comes later goes first. Idle ones keep no compute awake:
 * they are in nobody's count, and a suspend simply ends them.
 */
import { refusals } from '../refusal.ts';
import type { ProxyLimits } from '../limits.ts';
import type { Departure } from './departure.ts';
import type { SqlConnection } from './sql-connection.ts';

export interface Lease {
  connection: SqlConnection;
  /** It was idle before: it may turn out to be dead. */
  reused: boolean;
  /** Gives it back once it is reset, or closes it: what it was used for has not come to its end. */
  end(how: 'used' | 'broken'): void;
}

export interface LeaseOptions {
  endpointId: string;
  /** Role, database, verifier: sessions of different keys are never shared. */
  key: string;
  /** The compute's socket now; sessions of another one are closed. */
  path: string;
  departure: Departure;
  connect: () => Promise<SqlConnection>;
}

export interface SqlPool {
  /** Rejects with Refusal when it takes too long, with what `connect` rejects with, or when the client is gone. */
  lease(options: LeaseOptions): Promise<Lease>;
  stats(): { open: number; idle: number; waiting: number };
  /** Closes what is idle now, and everything else when it comes back. */
  close(): void;
}

type PoolLimits = Pick<ProxyLimits, 'sqlPoolSize' | 'sqlPoolIdleMs' | 'maxSqlWaiting' | 'sqlWaitMs'>;

const RESET_WITHIN_MS = 10_000;
const SWEEP_AT_MOST_MS = 10_000;

interface Idle {
  key: string;
  connection: SqlConnection;
  sinceMs: number;
}

/** Gets an idle connection, or leave (undefined) to open one, which is counted by then. */
interface Waiter {
  key: string;
  path: string;
  take(connection: SqlConnection | undefined): void;
}

interface EndpointPool {
  /** Open or being opened. */
  size: number;
  /** Latest last. */
  idle: Idle[];
  /** By key: how many are being reset. */
  resetting: Map<string, number>;
  waiting: Waiter[];
}

export function createSqlPool(limits: PoolLimits): SqlPool {
  const pools = new Map<string, EndpointPool>();
  let closed = false;

  const poolOf = (endpointId: string): EndpointPool => {
    let pool = pools.get(endpointId);
    if (!pool) {
      pool = { size: 0, idle: [], resetting: new Map(), waiting: [] };
      pools.set(endpointId, pool);
    }
    return pool;
  };
  /** Serves those who wait as far as that is possible now. */
  const serveWaiting = (pool: EndpointPool) => {
    for (let first = pool.waiting[0]; first; first = pool.waiting[0]) {
      const { key, path } = first;
      const connection = takeIdle(pool, key, path);
      if (!connection && !mayOpen(pool, key)) return;
      pool.waiting.shift();
      if (!connection) pool.size += 1;
      first.take(connection);
    }
  };
  const mayOpen = (pool: EndpointPool, key: string): boolean => {
    // One of this key is as good as there: a reset takes less time than a login.
    if (pool.resetting.has(key)) return false;
    if (pool.size >= limits.sqlPoolSize) pool.idle[0]?.connection.destroy();
    return pool.size < limits.sqlPoolSize;
  };
  const shrink = (pool: EndpointPool) => {
    pool.size -= 1;
    serveWaiting(pool);
  };
  const giveBack = async (pool: EndpointPool, key: string, connection: SqlConnection) => {
    pool.resetting.set(key, (pool.resetting.get(key) ?? 0) + 1);
    await settled(connection);
    const others = pool.resetting.get(key)! - 1;
    if (others === 0) pool.resetting.delete(key);
    else pool.resetting.set(key, others);
    if (closed) connection.destroy();
    if (!connection.broken) pool.idle.push({ key, connection, sinceMs: performance.now() });
    serveWaiting(pool);
  };
  const open = async ({ connect }: LeaseOptions, pool: EndpointPool): Promise<SqlConnection> => {
    try {
      const connection = await connect();
      connection.onBroken(() => {
        const at = pool.idle.findIndex((idle) => idle.connection === connection);
        if (at >= 0) pool.idle.splice(at, 1);
        shrink(pool);
      });
      if (connection.broken) shrink(pool);
      return connection;
    } catch (error) {
      shrink(pool);
      throw error;
    }
  };
  const sweep = setInterval(
    () => {
      const longAgoMs = performance.now() - limits.sqlPoolIdleMs;
      for (const [endpointId, pool] of pools) {
        for (const one of pool.idle.filter(({ sinceMs }) => sinceMs <= longAgoMs)) one.connection.destroy();
        if (pool.size === 0 && pool.waiting.length === 0) pools.delete(endpointId);
      }
    },
    Math.min(SWEEP_AT_MOST_MS, limits.sqlPoolIdleMs),
  );
  sweep.unref();

  return {
    async lease(options) {
      const { endpointId, key, path } = options;
      const pool = poolOf(endpointId);
      if (pool.idle.some(({ connection }) => connection.address.path !== path)) {
        for (const { connection } of [...pool.idle]) if (connection.address.path !== path) connection.destroy();
      }
      let found = pool.waiting.length === 0 ? takeIdle(pool, key, path) : undefined;
      if (!found && (pool.waiting.length > 0 || !mayOpen(pool, key))) found = await turn(pool, limits, options);
      else if (!found) pool.size += 1;
      const connection = found ?? (await open(options, pool));
      return {
        connection,
        reused: found !== undefined,
        end: (how) => {
          if (how === 'broken' || closed) connection.destroy();
          else void giveBack(pool, key, connection);
        },
      };
    },
    stats() {
      const all = [...pools.values()];
      const sum = (count: (pool: EndpointPool) => number) => all.reduce((total, pool) => total + count(pool), 0);
      return {
        open: sum((pool) => pool.size),
        idle: sum((pool) => pool.idle.length),
        waiting: sum((pool) => pool.waiting.length),
      };
    },
    close() {
      closed = true;
      clearInterval(sweep);
      for (const { idle } of [...pools.values()]) for (const { connection } of [...idle]) connection.destroy();
    },
  };
}

/** The one of this key that was used last. */
function takeIdle(pool: EndpointPool, key: string, path: string): SqlConnection | undefined {
  const at = pool.idle.findLastIndex((idle) => idle.key === key && idle.connection.address.path === path);
  return at < 0 ? undefined : pool.idle.splice(at, 1)[0]!.connection;
}

function turn(
  pool: EndpointPool,
  limits: PoolLimits,
  { key, path, departure }: LeaseOptions,
): Promise<SqlConnection | undefined> {
  if (pool.waiting.length >= limits.maxSqlWaiting) return Promise.reject(refusals.noPermit());
  return new Promise((resolve, reject) => {
    const settle = () => {
      clearTimeout(timer);
      stopListening();
    };
    const waiter: Waiter = {
      key,
      path,
      take: (connection) => {
        settle();
        resolve(connection);
      },
    };
    const leave = (error: Error) => {
      settle();
      const at = pool.waiting.indexOf(waiter);
      if (at >= 0) pool.waiting.splice(at, 1);
      reject(error);
    };
    pool.waiting.push(waiter);
    const timer = setTimeout(() => leave(refusals.noPermit()), limits.sqlWaitMs);
    let stopListening: () => void = () => undefined;
    stopListening = departure.whenGone(() => leave(departure.reason()));
  });
}

/** Resolves also when it failed: the connection is broken then. */
async function settled(connection: SqlConnection): Promise<void> {
  const timer = setTimeout(() => connection.destroy(), RESET_WITHIN_MS);
  await connection.settled();
  clearTimeout(timer);
}
