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
};
