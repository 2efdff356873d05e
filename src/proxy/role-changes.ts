/**
 * Which branches may have roles and passwords that the control plane does not know of yet, because SQL made them.
 *
 * Any session may have changed roles by means that the proxy cannot see (a function, a DO block): a weak suspicion, from
 * its begin until a while after its end, when the periodic comparison has long seen it. A command tag seen on its way to
 * a client is a strong one; it lasts for a while, since the change only shows once its transaction commits.
 */
import type { ProxyEndpoint } from '../control-plane/proxy-access.types.ts';

export interface RoleChanges {
  /** A command tag said that roles were changed. */
  note(endpoint: ProxyEndpoint): void;
  noteSessionEnd(endpoint: ProxyEndpoint): void;
  suspicion(endpoint: ProxyEndpoint): 'none' | 'weak' | 'strong';
}

const STRONG_FOR_MS = 10_000;
const WEAK_FOR_MS = 60_000;
const MAX_ENTRIES = 10_000;

export function createRoleChanges(nowMs: () => number, sessions: (endpoint: ProxyEndpoint) => number): RoleChanges {
  const strong = new Map<string, number>();
  const weak = new Map<string, number>();
  const mark = (times: Map<string, number>, { branchId }: ProxyEndpoint) => {
    // Deleted first, so that the oldest stays in front.
    times.delete(branchId);
    times.set(branchId, nowMs());
    if (times.size > MAX_ENTRIES) times.delete(times.keys().next().value!);
  };
  const recent = (times: Map<string, number>, { branchId }: ProxyEndpoint, withinMs: number) => {
    const atMs = times.get(branchId);
    return atMs !== undefined && nowMs() - atMs < withinMs;
  };
  return {
    note: (endpoint) => mark(strong, endpoint),
    noteSessionEnd: (endpoint) => mark(weak, endpoint),
    suspicion(endpoint) {
      if (recent(strong, endpoint, STRONG_FOR_MS)) return 'strong';
      return sessions(endpoint) > 0 || recent(weak, endpoint, WEAK_FOR_MS) ? 'weak' : 'none';
    },
  };
}
