/**
 * When branches expire: what a request may say about it, and which branches may.
 */
import { findFirstChild } from '../catalog/branches.ts';
import type { BranchRow, Queryable, Timestamp } from '../catalog/types.ts';
import { parseTime, timeToMs } from '../lib/point.ts';
import { invalidRequest, unprocessable } from './errors.ts';

const LONGEST_SECONDS = 30 * 86_400;

export interface Expiration {
  expiresAt: Timestamp | null;
  /** From when it was set until it expires; a reset begins it anew. */
  ttlIntervalSeconds: number | null;
}

/** Throws 'invalid'. Null: never. */
export function parseExpiration(asked: string | null | undefined, now: Date): Expiration {
  if (asked === null || asked === undefined) return { expiresAt: null, ttlIntervalSeconds: null };
  const time = parseTime(asked);
  if (time === undefined) {
    throw invalidRequest('expires_at is not a time with a time zone', { expires_at: asked.slice(0, 100) });
  }
  const seconds = Math.floor(timeToMs(time) / 1_000) - Math.floor(now.getTime() / 1_000);
  if (seconds <= 0) throw invalidRequest('expires_at must be in the future', { expires_at: asked });
  if (seconds > LONGEST_SECONDS) {
    throw invalidRequest('expires_at must be at most 30 days ahead', { expires_at: asked });
  }
  return { expiresAt: `${time.slice(0, 19)}Z`, ttlIntervalSeconds: seconds };
}

/** Throws 'unprocessable' for what must not expire. */
export async function assertMayExpire(tx: Queryable, branch: BranchRow): Promise<void> {
  if (branch.protected) throw unprocessable('cannot set expiration on a protected branch');
  if (branch.isDefault) throw unprocessable('cannot set expiration on the default branch');
  const child = await findFirstChild(tx, branch.id);
  if (child) throw unprocessable('cannot set expiration on a branch that has children', { branch_id: child.id });
}

/** A branch that goes by itself cannot have others hang on it. */
export function assertMayBeParent(parent: BranchRow): void {
  if (parent.expiresAt === null) return;
  throw unprocessable('a branch with an expiration cannot be a parent', { branch_id: parent.id });
}
