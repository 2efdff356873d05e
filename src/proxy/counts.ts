/**
 * How many connections there are, by kind, and the refusals that follow from it.
 */
import type { ProxyAccess, ProxyEndpoint } from '../control-plane/proxy-access.types.ts';
import type { ProxyLimits } from './limits.ts';
import { refusals } from './refusal.ts';

export interface ProxyStats {
  /** Accepted since the start. */
  accepted: number;
  /** Open and not authenticated. */
  unauthenticated: number;
  /** Open and authenticated: waiting for their compute, or in session. */
  sessions: number;
  loginFailures: number;
  cancelKeys: number;
}

export interface Counts {
  /** Counts a new connection; call the result once it has authenticated or ended (again is harmless). */
  unauthenticated(): () => void;
  /** True when this many connections cannot be served. */
  full(): boolean;
  loginFailed(): void;
  /**
   * Counts an authenticated connection; call the result when it is over. Throws Refusal when there are more than the
   * compute takes: what it keeps for superusers and for pools is its own to tell.
   */
  enter(endpoint: ProxyEndpoint): () => void;
  /** Counts a query over HTTP, which waits for one of a few connections. Throws Refusal when there are too many. */
  enterQuery(endpoint: ProxyEndpoint): () => void;
  /** The compute runs: it is told again, in case it was not there when the connection was counted. */
  reached(endpoint: ProxyEndpoint): void;
  /** Counts a client of a pool, which is nothing to its compute. Throws Refusal when there are too many. */
  enterPool(endpoint: ProxyEndpoint): () => void;
  /** Counts a pool's connection to the compute; call the result when it is over, and say whether it was in use. */
  openServer(endpoint: ProxyEndpoint): (used: boolean) => void;
  /** Connections at its compute. */
  of(endpoint: ProxyEndpoint): number;
  stats(): Omit<ProxyStats, 'cancelKeys'>;
}

export function createCounts(limits: ProxyLimits, access: ProxyAccess): Counts {
  const stats = { accepted: 0, unauthenticated: 0, sessions: 0, loginFailures: 0 };
  const perEndpoint = new Map<string, number>();
  const direct = new Map<string, number>();
  const pooled = new Map<string, number>();
  const add = (counts: Map<string, number>, { endpointId }: ProxyEndpoint, by: 1 | -1) => {
    const count = (counts.get(endpointId) ?? 0) + by;
    if (count === 0) counts.delete(endpointId);
    else counts.set(endpointId, count);
    return count;
  };
  const change = (endpoint: ProxyEndpoint, by: 1 | -1) => {
    stats.sessions += by;
    access.noteConnections(endpoint, add(perEndpoint, endpoint, by));
  };
  const once = (work: () => void) => {
    let done = false;
    return () => {
      if (!done) work();
      done = true;
    };
  };
  return {
    unauthenticated() {
      stats.accepted += 1;
      stats.unauthenticated += 1;
      return once(() => (stats.unauthenticated -= 1));
    },
    full: () => stats.unauthenticated + stats.sessions > limits.maxConnections,
    loginFailed: () => void (stats.loginFailures += 1),
    enter(endpoint) {
      const most = Math.min(endpoint.maxConnections, limits.maxConnectionsPerEndpoint);
      if ((direct.get(endpoint.endpointId) ?? 0) >= most) throw refusals.tooManyConnections();
      add(direct, endpoint, 1);
      change(endpoint, 1);
      return once(() => {
        add(direct, endpoint, -1);
        change(endpoint, -1);
      });
    },
    enterQuery(endpoint) {
      if ((perEndpoint.get(endpoint.endpointId) ?? 0) >= limits.maxConnectionsPerEndpoint) {
        throw refusals.tooManyConnections();
      }
      change(endpoint, 1);
      return once(() => change(endpoint, -1));
    },
    reached: (endpoint) => access.noteConnections(endpoint, perEndpoint.get(endpoint.endpointId) ?? 0),
    enterPool(endpoint) {
      if ((pooled.get(endpoint.endpointId) ?? 0) >= limits.maxPooledClientsPerEndpoint) throw refusals.maxClientConn();
      add(pooled, endpoint, 1);
      stats.sessions += 1;
      return once(() => {
        add(pooled, endpoint, -1);
        stats.sessions -= 1;
      });
    },
    openServer(endpoint) {
      access.noteConnections(endpoint, add(perEndpoint, endpoint, 1));
      return (used) => {
        const open = add(perEndpoint, endpoint, -1);
        access.noteConnections(endpoint, open, used ? 'use' : 'no use');
      };
    },
    of: (endpoint) => perEndpoint.get(endpoint.endpointId) ?? 0,
    stats: () => ({ ...stats }),
  };
}
