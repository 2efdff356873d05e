/**
 * Connections to computes that SQL over HTTP keeps between requests: so many per endpoint, by role, database and
 * verifier. One that comes back is reset before anybody else gets it; one that is in doubt is closed.
 *
 * Idle ones keep no compute awake: they are in nobody's count, and a suspend simply ends them.
 */
import { refusals } from '../refusal.ts';
import type { ProxyLimits } from '../limits.ts';
import type { SqlConnection, TransactionStatus } from './sql-connection.ts';
import { ANSWER, simpleQuery } from './sql-messages.ts';

export interface Lease {
  connection: SqlConnection;
  /** It was idle before: it may turn out to be dead. */
  reused: boolean;
  /** Gives it back, or closes it where there is no status. */
  end(status: TransactionStatus | undefined): void;
}

export interface LeaseOptions {
  endpointId: string;
  /** Role, database, verifier: sessions of different keys are never shared. */
  key: string;
  /** The compute's socket now; sessions of another one are closed. */
  path: string;
  signal: AbortSignal;
  connect: () => Promise<SqlConnection>;
}

export interface SqlPool {
  /** Rejects with Refusal when it takes too long, with what `connect` rejects with, or with the signal's reason. */
  lease(options: LeaseOptions): Promise<Lease>;
  stats(): { open: number; idle: number; waiting: number };
  /** Closes what is idle now, and everything else when it comes back. */
  close(): void;
}

type PoolLimits = Pick<ProxyLimits, 'sqlPoolSize' | 'sqlPoolIdleMs' | 'maxSqlWaiting' | 'sqlWaitMs'>;

/** What DISCARD ALL does, but for plans, and role as well. */
const RESET = simpleQuery(
  'CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; DEALLOCATE ALL; UNLISTEN *; ' +
    'SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES',
);
const ROLLBACK = simpleQuery('ROLLBACK');
const RESET_WITHIN_MS = 10_000;

interface Idle {
  key: string;
  connection: SqlConnection;
  timer: NodeJS.Timeout;
}

interface EndpointPool {
  /** Open or being opened. */
  size: number;
  /** Latest last. */
  idle: Idle[];
  waiting: (() => void)[];
}

export function createSqlPool(limits: PoolLimits): SqlPool {
  const pools = new Map<string, EndpointPool>();
  let closed = false;

  const poolOf = (endpointId: string): EndpointPool => {
    let pool = pools.get(endpointId);
    if (!pool) pools.set(endpointId, (pool = { size: 0, idle: [], waiting: [] }));
    return pool;
  };
  const shrink = (endpointId: string, pool: EndpointPool) => {
    pool.size -= 1;
    pool.waiting.shift()?.();
    if (pool.size === 0 && pool.waiting.length === 0 && pools.get(endpointId) === pool) pools.delete(endpointId);
  };
  const takeIdle = (pool: EndpointPool, at: number): SqlConnection => {
    const [{ connection, timer }] = pool.idle.splice(at, 1) as [Idle];
    clearTimeout(timer);
    return connection;
  };
  const keep = (pool: EndpointPool, key: string, connection: SqlConnection) => {
    if (closed || connection.broken) return connection.destroy();
    const timer = setTimeout(() => connection.destroy(), limits.sqlPoolIdleMs);
    timer.unref();
    pool.idle.push({ key, connection, timer });
    pool.waiting.shift()?.();
  };
  const open = async ({ endpointId, connect }: LeaseOptions, pool: EndpointPool): Promise<SqlConnection> => {
    pool.size += 1;
    try {
      const connection = await connect();
      connection.onBroken(() => {
        const at = pool.idle.findIndex((idle) => idle.connection === connection);
        if (at >= 0) takeIdle(pool, at);
        shrink(endpointId, pool);
      });
      if (connection.broken) shrink(endpointId, pool);
      return connection;
    } catch (error) {
      shrink(endpointId, pool);
      throw error;
    }
  };

  return {
    async lease(options) {
      const { endpointId, key, path } = options;
      const leaseOf = (connection: SqlConnection, reused: boolean, pool: EndpointPool): Lease => ({
        connection,
        reused,
        end: (status) => {
          if (status === undefined || closed) return connection.destroy();
          void reset(connection, status).then(() => keep(pool, key, connection));
        },
      });
      for (;;) {
        const pool = poolOf(endpointId);
        for (const idle of pool.idle.filter(({ connection }) => connection.address.path !== path)) {
          idle.connection.destroy();
        }
        const at = pool.idle.findLastIndex((idle) => idle.key === key);
        if (at >= 0) return leaseOf(takeIdle(pool, at), true, pool);
        if (pool.size >= limits.sqlPoolSize && pool.idle.length > 0) pool.idle[0]!.connection.destroy();
        if (pool.size < limits.sqlPoolSize) return leaseOf(await open(options, pool), false, pool);
        await turn(pool, limits, options.signal);
      }
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
      for (const { idle } of [...pools.values()]) for (const { connection } of [...idle]) connection.destroy();
    },
  };
}

/** Resolves when a connection may have become free. */
function turn(pool: EndpointPool, limits: PoolLimits, signal: AbortSignal): Promise<void> {
  if (pool.waiting.length >= limits.maxSqlWaiting) return Promise.reject(refusals.noPermit());
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      const at = pool.waiting.indexOf(wake);
      if (at >= 0) pool.waiting.splice(at, 1);
    };
    const wake = () => {
      leave();
      resolve();
    };
    const onAbort = () => {
      leave();
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      leave();
      reject(refusals.noPermit());
    }, limits.sqlWaitMs);
    if (signal.aborted) return onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    pool.waiting.push(wake);
  });
}

/** Resolves also when it failed: the connection is broken then. */
async function reset(connection: SqlConnection, status: TransactionStatus): Promise<void> {
  const timer = setTimeout(() => connection.destroy(), RESET_WITHIN_MS);
  const failOnError = (type: number) => {
    if (type === ANSWER.error) throw new Error('the session could not be reset');
  };
  try {
    if (status !== 'I') await connection.run(ROLLBACK, failOnError);
    if ((await connection.run(RESET, failOnError)) !== 'I') connection.destroy();
  } catch {
    connection.destroy();
  } finally {
    clearTimeout(timer);
  }
}
