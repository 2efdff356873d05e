/**
 * Slows down guessing: after some failed logins of one address at one endpoint, or at one role from wherever, each
 * further failure is answered later. Good logins are never delayed, so nobody can lock a role out.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { addressGroup } from './address-rules.ts';
import type { Counts } from './counts.ts';

export interface LoginFailures {
  /** Counts a failure; gives how long its answer should wait. */
  note(address: string, endpointId: string, role: string): number;
}

export interface FailedLogin {
  address: string;
  endpointId: string;
  role: string;
  /** The client is gone. */
  closed: AbortSignal;
}

/** Counts a failure and waits for as long as its answer should; never rejects. */
export async function slowDown(
  { counts, loginFailures }: { counts: Pick<Counts, 'loginFailed'>; loginFailures: LoginFailures },
  { address, endpointId, role, closed }: FailedLogin,
): Promise<void> {
  counts.loginFailed();
  const delayMs = loginFailures.note(address, endpointId, role);
  if (delayMs > 0) await sleep(delayMs, undefined, { signal: closed }).catch(() => undefined);
}

const FORGET_AFTER_MS = 60_000;
/** Of addresses, and of roles: who invents roles only makes others of those be forgotten. */
const MAX_ENTRIES = 10_000;
const STEP_MS = 20;
/** A role's clients are many: one that was given an old password must not slow down all others' mistakes. */
const FREE_PER_ROLE = 10;

export function createLoginFailures(
  limits: { freeLoginFailures: number; maxFailureDelayMs: number },
  nowMs: () => number,
): LoginFailures {
  const byAddress = createTally(nowMs);
  const byRole = createTally(nowMs);
  const delayMs = (count: number, free: number) =>
    Math.min(limits.maxFailureDelayMs, Math.max(0, count - free) * STEP_MS);
  return {
    note(address, endpointId, role) {
      const ofAddress = byAddress(`${addressGroup(address)} ${endpointId}`);
      const ofRole = byRole(`${endpointId} ${role}`);
      const free = limits.freeLoginFailures;
      return Math.max(delayMs(ofAddress, free), delayMs(ofRole, free * FREE_PER_ROLE));
    },
  };
}

/** Counts by key, until nothing has come for a while; the keys that were not seen for longest are forgotten. */
function createTally(nowMs: () => number): (key: string) => number {
  const counts = new Map<string, { count: number; lastMs: number }>();
  return (key) => {
    const now = nowMs();
    const before = counts.get(key);
    const count = before && now - before.lastMs < FORGET_AFTER_MS ? before.count + 1 : 1;
    counts.delete(key);
    counts.set(key, { count, lastMs: now });
    if (counts.size > MAX_ENTRIES) counts.delete(counts.keys().next().value!);
    return count;
  };
}
