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
  /** Counts an authenticated connection; call the result when it is over. Throws Refusal when there are too many. */
  enter(endpoint: ProxyEndpoint): () => void;
  of(endpoint: ProxyEndpoint): number;
  stats(): Omit<ProxyStats, 'cancelKeys'>;
}

export function createCounts(limits: ProxyLimits, access: ProxyAccess): Counts {
  const stats = { accepted: 0, unauthenticated: 0, sessions: 0, loginFailures: 0 };
  const perEndpoint = new Map<string, number>();
  const change = (endpoint: ProxyEndpoint, by: 1 | -1) => {
    const open = (perEndpoint.get(endpoint.endpointId) ?? 0) + by;
    if (open === 0) perEndpoint.delete(endpoint.endpointId);
    else perEndpoint.set(endpoint.endpointId, open);
    stats.sessions += by;
    access.noteConnections(endpoint, open);
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
    full: () =>
      stats.unauthenticated > limits.maxUnauthenticated ||
      stats.unauthenticated + stats.sessions > limits.maxConnections,
    loginFailed: () => void (stats.loginFailures += 1),
    enter(endpoint) {
      if ((perEndpoint.get(endpoint.endpointId) ?? 0) >= limits.maxConnectionsPerEndpoint) {
        throw refusals.tooManyConnections();
      }
      change(endpoint, 1);
      return once(() => change(endpoint, -1));
    },
    of: (endpoint) => perEndpoint.get(endpoint.endpointId) ?? 0,
    stats: () => ({ ...stats }),
  };
}
