/**
 * Where a path may answer otherwise than plain Postgres, and why: what Neon documents of it. Each entry names what is
 * seen instead and where; the rest of the behaviour must be as expected. It fails when the difference disappears.
 */
import { expect } from 'vitest';
import type { Path } from './paths.ts';

export interface Difference {
  behaviour: string;
  paths: readonly Path[];
  /** All, when left out. */
  drivers?: readonly string[];
  reason: string;
  /** By the name of an observation: found in its JSON on the path, and not in what is expected. */
  instead: Readonly<Record<string, RegExp>>;
}

const BY_TRANSACTION = 'pooled by transaction';

/** What cannot outlive a transaction on a pooled host. */
const POOLED: readonly Omit<Difference, 'paths'>[] = [
  {
    behaviour: 'other settings stay in the session',
    reason: BY_TRANSACTION,
    instead: { shown: /4MB/, 'path shown': /\$user/, 'custom shown': /unset/ },
  },
  {
    behaviour: 'temporary tables stay in the session',
    reason: BY_TRANSACTION,
    instead: { fill: /42P01/, read: /42P01/ },
  },
  {
    behaviour: 'statements prepared by SQL stay in the session',
    reason: BY_TRANSACTION,
    instead: { execute: /26000/, deallocate: /26000/ },
  },
  {
    behaviour: 'cursors that outlive their transaction',
    reason: BY_TRANSACTION,
    instead: { fetch: /34000/, close: /34000/ },
  },
  {
    behaviour: 'advisory locks of the session',
    reason: BY_TRANSACTION,
    instead: { held: /locks: 0/, unlock: /was held: false/ },
  },
  {
    behaviour: 'settings in the startup packet',
    reason: 'a pooled host takes no other settings than those that Postgres reports',
    instead: { outcome: /unsupported startup parameter in options: search_path/ },
  },
  {
    behaviour: 'notifications from others and from itself',
    reason: BY_TRANSACTION,
    instead: { payloads: /^\[\]$/ },
  },
];

export const DIFFERENCES: readonly Difference[] = [
  {
    behaviour: 'a wrong password',
    paths: ['direct', 'pooled', 'websocket'],
    reason: 'the proxy checks passwords, with a text and a code of its own',
    instead: { failed: /password authentication failed for user 'neondb_owner'/ },
  },
  ...POOLED.map((difference): Difference => ({ ...difference, paths: ['pooled'] })),
];

export function differenceOf(driver: string, path: Path, behaviour: string): Difference | undefined {
  return DIFFERENCES.find(
    (difference) =>
      difference.behaviour === behaviour &&
      difference.paths.includes(path) &&
      (difference.drivers === undefined || difference.drivers.includes(driver)),
  );
}

export function compare(seen: unknown, expected: unknown, difference: Difference | undefined): void {
  if (difference === undefined) return expect(seen).toEqual(expected);
  const [rest, restExpected] = [{ ...(seen as object) }, { ...(expected as object) }] as Record<string, unknown>[];
  for (const [key, pattern] of Object.entries(difference.instead)) {
    expect(JSON.stringify(rest![key]), `${key} on this path`).toMatch(pattern);
    expect(JSON.stringify(restExpected![key]), `${key} is no longer different: take it off the list`).not.toMatch(
      pattern,
    );
    delete rest![key];
    delete restExpected![key];
  }
  return expect(rest).toEqual(restExpected);
}
