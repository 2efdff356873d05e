/**
 * Turns what a driver gave into plain data that can be compared between two servers: every value keeps its type and all
 * its content (long ones as a hash), and what differs from server to server by nature (process ids, oids of the
 * user's objects) is masked.
 */
import { createHash } from 'node:crypto';

const LONG = 2_000;
const FIRST_USER_OID = 16_384;
/** Of errors: what says where in this program it was thrown, and what it was thrown for. */
const NOT_OF_THE_SERVER = new Set(['stack', 'query', 'sql', 'parameters', 'params', 'args', 'types', 'length']);
const MASKS: readonly (readonly [RegExp, string])[] = [
  [/\b(process|transaction) \d+/gi, '$1 N'],
  [/\bpg_(temp|toast)_\d+/g, 'pg_$1_N'],
];

export function observation(value: unknown, key = ''): unknown {
  if (value === undefined) return { undefined: true };
  if (value === null || typeof value === 'boolean') return value;
  if (typeof value === 'string') return text(value);
  if (typeof value === 'number') return number(value, key);
  if (typeof value === 'bigint') return { bigint: value.toString() };
  if (typeof value === 'symbol') return value.toString();
  if (typeof value === 'function') return '(function)';
  if (value instanceof Date) return { date: Number.isNaN(value.getTime()) ? 'invalid' : value.toISOString() };
  if (value instanceof Uint8Array) return bytes(value);
  if (value instanceof Error) return error(value);
  if (Array.isArray(value)) return list(value);
  return members(value);
}

function text(value: string): unknown {
  if (value.length > LONG) return { characters: value.length, sha256: sha256(value) };
  return MASKS.reduce((masked, [pattern, by]) => masked.replaceAll(pattern, by), value);
}

function number(value: number, key: string): unknown {
  if (/oid|table|type/i.test(key) && value >= FIRST_USER_OID) return '(oid of a user object)';
  // JSON and toEqual would take some of these for others.
  return Number.isFinite(value) && !Object.is(value, -0)
    ? value
    : { number: Object.is(value, -0) ? '-0' : String(value) };
}

function bytes(value: Uint8Array): unknown {
  if (value.length > LONG) return { bytes: value.length, sha256: sha256(value) };
  return { hex: Buffer.from(value).toString('hex') };
}

/** Long lists of rows are compared by hash too, so that a failure stays readable. */
function list(values: readonly unknown[]): unknown {
  const seen = values.map((value) => observation(value));
  if (seen.length <= LONG) return seen;
  return { items: seen.length, first: seen[0], last: seen.at(-1), sha256: sha256(JSON.stringify(seen)) };
}

function error(value: Error): unknown {
  const seen: Record<string, unknown> = { error: value.constructor.name, message: text(value.message) };
  for (const [key, field] of Object.entries(value)) {
    if (NOT_OF_THE_SERVER.has(key) || typeof field === 'function' || key.startsWith('_')) continue;
    seen[key] = observation(field, key);
  }
  if (value.cause !== undefined) seen['cause'] = observation(value.cause);
  return seen;
}

function members(value: object): unknown {
  const seen: Record<string, unknown> = {};
  const kind = value.constructor?.name;
  if (kind !== undefined && kind !== 'Object') seen['(kind)'] = kind;
  for (const [key, member] of Object.entries(value)) {
    if (typeof member !== 'function') seen[key] = observation(member, key);
  }
  return seen;
}

function sha256(value: string | Uint8Array): string {
  return createHash('sha256').update(value).digest('hex');
}
