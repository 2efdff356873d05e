/**
 * Points in the history of a branch: as they are asked for, and as they are found in the WAL.
 *
 * Times are microseconds, as text, from end to end: a JavaScript date would lose a commit that shares its millisecond.
 */
import type { Lsn } from './lsn.ts';

/** `time` is ISO 8601 in UTC with microseconds: `2026-01-16T21:02:04.214837Z`. */
export type PointQuery = { kind: 'head' } | { kind: 'lsn'; lsn: Lsn } | { kind: 'time'; time: string };

export interface ResolvedPoint {
  /** The end of a record; every transaction that committed up to here belongs to the point, no other does. */
  lsn: Lsn;
  /** When the last of them committed; null where none is known. */
  time: string | null;
}

/** What may be asked for: nothing that lies before `startMs` (since the epoch), nothing after `nowMs`. */
export interface HistoryWindow {
  startMs: number;
  nowMs: number;
}

const TIME = /^(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?\s*([Zz]|[+-]\d{2}(?::?\d{2})?)$/;

/** RFC 3339 with up to nanoseconds, cut to microseconds. Undefined: it is not a time, or has no time zone. */
export function parseTime(text: string): string | undefined {
  const match = TIME.exec(text.trim());
  if (!match) return undefined;
  const [, year, month, day, hour, minute, second, fraction = '', zone] = match;
  const offset = zone!.toUpperCase() === 'Z' ? 'Z' : `${zone!.slice(0, 3)}:${zone!.slice(3).replace(':', '') || '00'}`;
  const date = new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}${offset}`);
  if (Number.isNaN(date.getTime())) return undefined;
  // JavaScript would take 30 February for 2 March.
  const local = new Date(`${year}-${month}-${day}T00:00:00Z`);
  if (Number.isNaN(local.getTime()) || local.getUTCDate() !== Number(day)) return undefined;
  return `${date.toISOString().slice(0, 19)}.${fraction.slice(0, 6).padEnd(6, '0')}Z`;
}

/** Whole milliseconds since the epoch, rounded down. */
export const timeToMs = (time: string): number => Date.parse(`${time.slice(0, 23)}Z`);
