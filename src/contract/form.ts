/**
 * Form-encoded bodies: `project[name]=x&project[settings][quota][logical_size_bytes]=1`, arrays as `a[]=x` or `a[0]=x`.
 * All form values are text; `shapeForm` gives them the types that the schema asks for, and leaves what does not fit as
 * it is, so that validation complains about it in the same words as for JSON.
 */
import qs from 'qs';
import type { ContractDocument, JsonSchema } from './document.ts';
import { dereference } from './document.ts';

const LIMITS = { depth: 12, parameterLimit: 2000, arrayLimit: 500 };

/** Nested text values. Keys that would reach a prototype are dropped. Throws RangeError beyond the limits. */
export function parseForm(text: string): Record<string, unknown> {
  return qs.parse(text, {
    depth: LIMITS.depth,
    strictDepth: true,
    parameterLimit: LIMITS.parameterLimit,
    arrayLimit: LIMITS.arrayLimit,
    throwOnLimitExceeded: true,
  }) as Record<string, unknown>;
}

/** A form value in the type of its schema, as far as that is possible. */
export function shapeForm(document: ContractDocument, schema: JsonSchema, value: unknown): unknown {
  if (value === undefined) return undefined;
  const parts = flatten(document, schema);
  const merged: JsonSchema = Object.assign({}, ...parts) as JsonSchema;
  if (value === '' && merged.nullable === true) return null;
  if (merged.type === 'array') return shapeArray(document, merged, value);
  if (typeof value === 'string') return parseText(merged.type, value);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const properties = Object.assign({}, ...parts.map((part) => part.properties)) as Record<string, JsonSchema>;
  const rest = parts.map((part) => part.additionalProperties).find((found) => typeof found === 'object');
  const shaped: Record<string, unknown> = {};
  for (const [key, inner] of Object.entries(value)) {
    const known = Object.hasOwn(properties, key) ? properties[key] : rest;
    shaped[key] = known ? shapeForm(document, known, inner) : inner;
  }
  return shaped;
}

/** A text in the type of a schema; the text itself when it is none of that type. */
export function parseText(type: string | undefined, text: string): unknown {
  if (type === 'boolean') return parseBool(text) ?? text;
  if (type === 'integer') return /^[+-]?\d{1,20}$/.test(text) ? Number(text) : text;
  if (type === 'number') return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : text;
  return text;
}

/** The spellings that clients written for the vendor's server use. */
function parseBool(text: string): boolean | undefined {
  if (['1', 't', 'T', 'TRUE', 'true', 'True'].includes(text)) return true;
  if (['0', 'f', 'F', 'FALSE', 'false', 'False'].includes(text)) return false;
  return undefined;
}

/** The schema and all that it includes. Of alternatives all are taken: validation decides which one holds. */
function flatten(document: ContractDocument, schema: JsonSchema): JsonSchema[] {
  const own = dereference(document, schema);
  const included = [...(own.allOf ?? []), ...(own.oneOf ?? []), ...(own.anyOf ?? [])];
  return [...included.flatMap((part) => flatten(document, part)), own];
}

function shapeArray(document: ContractDocument, schema: JsonSchema, value: unknown): unknown {
  const items = schema.items ?? {};
  let list: unknown[];
  if (Array.isArray(value)) list = value;
  else if (typeof value === 'string') list = value === '' ? [] : [value];
  else return value;
  return list.map((item) => shapeForm(document, items, item));
}
