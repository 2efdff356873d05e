/**
 * JSON parameters as Postgres text: strings as they are, arrays as array literals, everything else as its JSON was written.
 */

import { Verbatim } from './exact-json.ts';

/** null: NULL. */
export function toPostgresText(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  if (typeof value === 'string') return value;
  if (value instanceof Verbatim) return value.text;
  if (Array.isArray(value)) return arrayLiteral(value);
  return JSON.stringify(value);
}

function arrayLiteral(values: readonly unknown[]): string {
  return `{${values.map(element).join(',')}}`;
}

function element(value: unknown): string {
  if (value === null || value === undefined) return 'NULL';
  if (Array.isArray(value)) return arrayLiteral(value);
  if (typeof value === 'boolean') return String(value);
  if (value instanceof Verbatim && !value.text.startsWith('{')) return value.text;
  const text = value instanceof Verbatim ? value.text : typeof value === 'string' ? value : JSON.stringify(value);
  return `"${text.replaceAll(/["\\]/g, '\\$&')}"`;
}
