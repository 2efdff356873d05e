/**
 * What the proxy allows at most. Nothing that a client can cause grows without one of these.
 */
import { DEFAULT_POOL_LIMITS } from './pooler/pool.ts';
import type { PoolLimits } from './pooler/pool.ts';

export interface ProxyLimits {
  /** From accept to the end of authentication. */
  handshakeTimeoutMs: number;
  /** From the end of authentication until the compute is reached. */
  wakeTimeoutMs: number;
  /** One login at a compute. */
  loginTimeoutMs: number;
  /** Connections that have not authenticated yet. */
  maxUnauthenticated: number;
  maxConnections: number;
  maxConnectionsPerEndpoint: number;
  maxPooledClientsPerEndpoint: number;
  pool: PoolLimits;
  /** Bytes of one message before authentication. */
  maxAuthMessageBytes: number;
  /** Bytes of one command on a replication connection. */
  maxReplicationCommandBytes: number;
  /** Failed logins of one address at one endpoint that are answered at once; later ones wait. */
  freeLoginFailures: number;
  /** How long such an answer waits at most. */
  maxFailureDelayMs: number;
  /** HTTP connections, with a request or waiting for the next one; WebSockets count as sessions instead. */
  maxHttpConnections: number;
  /** From the first byte of a request's head to its last; the same for the whole request with its body. */
  httpHeadTimeoutMs: number;
  httpRequestTimeoutMs: number;
  httpIdleTimeoutMs: number;
  /** Bytes of a request's body and of an answer of SQL over HTTP. */
  maxSqlRequestBytes: number;
  maxSqlResponseBytes: number;
  /** Bytes of all large requests of SQL over HTTP that are held at once, and again of answers; the others wait. */
  maxSqlHeldBytes: number;
  /** Connections to a compute that SQL over HTTP keeps, per endpoint, and how long an idle one is kept. */
  sqlPoolSize: number;
  sqlPoolIdleMs: number;
  /** Queries over HTTP that wait for such a connection, per endpoint, and for how long. */
  maxSqlWaiting: number;
  sqlWaitMs: number;
  /** A URL of JSON Web Keys is asked again at most this often. */
  jwksRefreshMs: number;
  /** Bytes of one message of a WebSocket. */
  maxWebSocketMessageBytes: number;
  /** Bytes that all WebSockets together may have sent before they have authenticated. */
  maxWebSocketEarlyBytes: number;
}

export const DEFAULT_LIMITS: ProxyLimits = {
  handshakeTimeoutMs: 15_000,
  wakeTimeoutMs: 120_000,
  loginTimeoutMs: 15_000,
  maxUnauthenticated: 1_000,
  maxConnections: 20_000,
  maxConnectionsPerEndpoint: 5_000,
  maxPooledClientsPerEndpoint: 10_000,
  pool: DEFAULT_POOL_LIMITS,
  maxAuthMessageBytes: 64 * 1024,
  maxReplicationCommandBytes: 1024 * 1024,
  freeLoginFailures: 10,
  maxFailureDelayMs: 1_000,
  maxHttpConnections: 5_000,
  httpHeadTimeoutMs: 15_000,
  httpRequestTimeoutMs: 60_000,
  httpIdleTimeoutMs: 72_000,
  maxSqlRequestBytes: 64 * 1024 * 1024,
  maxSqlResponseBytes: 64 * 1024 * 1024,
  maxSqlHeldBytes: 128 * 1024 * 1024,
  sqlPoolSize: 20,
  sqlPoolIdleMs: 300_000,
  maxSqlWaiting: 1_000,
  sqlWaitMs: 30_000,
  jwksRefreshMs: 30_000,
  maxWebSocketMessageBytes: 64 * 1024 * 1024,
  maxWebSocketEarlyBytes: 256 * 1024 * 1024,
};
