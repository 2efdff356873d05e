/**
 * Slows down guessing: after some failed logins of one address at one endpoint, each further failure is answered
 * later. Good logins are never delayed, so nobody can lock a role out.
 */
export interface LoginFailures {
  /** Counts a failure; gives how long its answer should wait. */
  note(address: string, endpointId: string): number;
}

const FORGET_AFTER_MS = 60_000;
const MAX_ENTRIES = 10_000;
const STEP_MS = 20;

export function createLoginFailures(
  limits: { freeLoginFailures: number; maxFailureDelayMs: number },
  nowMs: () => number,
): LoginFailures {
  const failures = new Map<string, { count: number; lastMs: number }>();
  return {
    note(address, endpointId) {
      const key = `${address} ${endpointId}`;
      const now = nowMs();
      const before = failures.get(key);
      const count = before && now - before.lastMs < FORGET_AFTER_MS ? before.count + 1 : 1;
      failures.delete(key);
      failures.set(key, { count, lastMs: now });
      if (failures.size > MAX_ENTRIES) failures.delete(failures.keys().next().value!);
      const beyond = Math.max(0, count - limits.freeLoginFailures);
      return Math.min(limits.maxFailureDelayMs, beyond * STEP_MS);
    },
  };
}
