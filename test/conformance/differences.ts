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

const BY_STATEMENT = 'over HTTP each statement is a session of its own';

const HTTP: readonly Omit<Difference, 'paths'>[] = [
  ...POOLED.filter(({ reason, behaviour }) => reason === BY_TRANSACTION && !behaviour.startsWith('notifications')).map(
    (difference) => ({ ...difference, reason: BY_STATEMENT }),
  ),
  {
    behaviour: 'commit, rollback and savepoints',
    reason: BY_STATEMENT,
    instead: {
      ...{ savepoint: /25P01/, 'back to it': /25P01/, read: /"amount":0/, release: /25P01/ },
      'what is left': /"rows":\[\]/,
    },
  },
  {
    behaviour: 'a failed transaction refuses all until it ends',
    reason: BY_STATEMENT,
    instead: {
      ...{ refused: /"one":1/, 'refused with parameters': /"one":1/, commit: /COMMIT/, 'what is left': /"amount":0/ },
      ...{ savepoint: /25P01/, 'back to the savepoint': /25P01/ },
    },
  },
  {
    behaviour: 'isolation levels and read-only transactions',
    reason: BY_STATEMENT,
    instead: {
      'show read uncommitted': /read committed/,
      'show repeatable read': /read committed/,
      'show serializable': /read committed/,
      'may not write': /"command":"DELETE"/,
      'show deferrable': /off/,
      'commit and chain': /25P01/,
      'still repeatable read': /read committed/,
    },
  },
  {
    behaviour: 'tables made in a transaction that is rolled back',
    reason: BY_STATEMENT,
    instead: { gone: /"n":10/ },
  },
  {
    behaviour: 'empty statements',
    reason: 'the answer of SQL over HTTP always names a command, if only by an empty text',
    instead: Object.fromEntries(['nothing', 'blank', 'a semicolon', 'a comment'].map((key) => [key, /"command":""/])),
  },
  {
    behaviour: 'cursors by SQL',
    reason: 'no cursors over HTTP',
    instead: {
      declare: /25P01/,
      ...Object.fromEntries(['fetch', 'fetch on', 'back', 'move', 'last', 'close'].map((key) => [key, /34000/])),
    },
  },
  {
    behaviour: 'settings for a transaction',
    reason: BY_STATEMENT,
    instead: { shown: /2024-01-01 00:00:00\+00/, 'read back': /42704|"current_setting":""/ },
  },
  {
    behaviour: 'temporary tables of a transaction',
    reason: BY_STATEMENT,
    instead: { fill: /42P01/, read: /42P01/ },
  },
  {
    behaviour: 'advisory locks of a transaction',
    reason: BY_STATEMENT,
    instead: { held: /"n":0/ },
  },
  {
    behaviour: 'settings that Postgres reports stay in the session',
    reason: BY_STATEMENT,
    instead: { shown: /2024-01-02 00:00:00\+00/, still: /GMT/ },
  },
];

/** What single drivers do by themselves that a path does not carry. */
const OF_DRIVERS: readonly Difference[] = [
  {
    behaviour: 'what the server says of itself',
    paths: ['direct'],
    drivers: ['JDBC'],
    reason: 'the driver puts its time zone into the startup packet, and direct hosts drop such settings',
    instead: { TimeZone: /GMT/ },
  },
  {
    behaviour: "the driver's own transactions",
    paths: ['pooled'],
    drivers: ['JDBC'],
    reason: `the driver sets isolation levels for the session; ${BY_TRANSACTION}`,
    instead: { serializable: /read committed/, 'repeatable read': /read committed/ },
  },
  {
    behaviour: 'many prepared statements',
    paths: ['pooled'],
    drivers: ['psycopg'],
    reason:
      'the driver keeps a hundred and gives up others by DEALLOCATE, which is SQL that pooled hosts do not follow',
    instead: { first: /26000/, again: /26000/ },
  },
];

export const DIFFERENCES: readonly Difference[] = [
  ...OF_DRIVERS,
  {
    behaviour: 'a wrong password',
    paths: ['direct', 'pooled', 'websocket', 'http'],
    reason: 'the proxy checks passwords, with a text and a code of its own',
    instead: { failed: /password authentication failed for user 'neondb_owner'/ },
  },
  ...HTTP.map((difference): Difference => ({ ...difference, paths: ['http'] })),
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
