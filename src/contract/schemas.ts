/**
 * Validation by the document's schemas: one Ajv holds the whole document, schemas are named by pointer and compiled
 * when first used. Nothing is coerced, no default is filled in, unknown fields are allowed.
 *
 * Messages follow the server that clients know: `project (field required)`, `limit (int: value 0 less than 1)`.
 */
import { Ajv } from 'ajv';
import type { ErrorObject, ValidateFunction } from 'ajv';
import addFormatsModule from 'ajv-formats';
import type { ContractDocument, JsonSchema } from './document.ts';

const addFormats = addFormatsModule.default;

/** Undefined: valid. Otherwise what is wrong, naming the field, for people. */
export type Check = (value: unknown) => Complaint | undefined;

export interface Complaint {
  /** Dotted path of the field; empty: the value itself. */
  field: string;
  problem: string;
}

export interface Schemas {
  /** The check for the schema at a pointer (`#/components/schemas/Project`). */
  at(pointer: string): Check;
  /** The check for a schema that may refer into the document. */
  of(schema: JsonSchema): Check;
}

export function createSchemas(document: ContractDocument): Schemas {
  const ajv = new Ajv({
    strict: false,
    validateSchema: false,
    validateFormats: true,
    logger: false,
    verbose: true,
    discriminator: true,
  });
  addFormats(ajv);
  // Beyond 2^53 a JSON number has already lost digits: it is refused here, not stored wrong.
  ajv.addFormat('int64', { type: 'number', validate: Number.isSafeInteger });
  ajv.addFormat('uint64', {
    type: 'number',
    validate: (value: number) => Number.isSafeInteger(value) && value >= 0,
  });
  ajv.addFormat('int', { type: 'number', validate: Number.isSafeInteger });
  ajv.addSchema(document, 'contract');
  const checks = new Map<string, Check>();
  const of = (schema: JsonSchema): Check => {
    const key = JSON.stringify(schema);
    let check = checks.get(key);
    if (!check) checks.set(key, (check = lazily(() => ajv.compile(absolute(schema) as object))));
    return check;
  };
  return { of, at: (pointer) => of({ $ref: pointer }) };
}

function lazily(compile: () => ValidateFunction): Check {
  let validate: ValidateFunction | undefined;
  return (value) => {
    validate ??= compile();
    return validate(value) ? undefined : complaint(validate.errors!.at(-1)!);
  };
}

/** The same schema with its references aimed at the document that Ajv holds. */
function absolute(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(absolute);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      key,
      key === '$ref' && typeof inner === 'string' && inner.startsWith('#') ? `contract${inner}` : absolute(inner),
    ]),
  );
}

function complaint(error: ErrorObject): Complaint {
  const at = error.instancePath
    .split('/')
    .slice(1)
    .map((key) => key.replaceAll('~1', '/').replaceAll('~0', '~'));
  if (error.keyword === 'required') at.push(String((error.params as { missingProperty: string }).missingProperty));
  return { field: at.join('.'), problem: problem(error) };
}

function problem(error: ErrorObject): string {
  const limit = (error.params as { limit?: number }).limit;
  const value: unknown = error.data;
  switch (error.keyword) {
    case 'required':
      return 'field required';
    case 'type':
      return `expected ${expectedTypes(error)}, got ${typeName(value)}`;
    case 'enum':
      return `invalid value: ${quoted(value)}`;
    case 'minLength':
      return `string: len ${characters(value)} less than minimum ${limit}`;
    case 'maxLength':
      return `string: len ${characters(value)} greater than maximum ${limit}`;
    case 'minItems':
      return `array: len ${(value as unknown[]).length} less than minimum ${limit}`;
    case 'maxItems':
      return `array: len ${(value as unknown[]).length} greater than maximum ${limit}`;
    case 'minimum':
      return `value ${String(value)} less than ${limit}`;
    case 'maximum':
      return `value ${String(value)} greater than ${limit}`;
    case 'pattern':
      return `string: no regex match: ${(error.params as { pattern: string }).pattern}`;
    case 'format':
      return `invalid ${(error.params as { format: string }).format}`;
    case 'discriminator':
    case 'oneOf':
    case 'anyOf':
      return 'unable to detect sum type variant';
    default:
      return error.message ?? error.keyword;
  }
}

function expectedTypes(error: ErrorObject): string {
  const { type } = error.params as { type: string | string[] };
  return Array.isArray(type) ? type.join(' or ') : type;
}

function typeName(value: unknown): string {
  if (value === null) return 'null';
  return Array.isArray(value) ? 'array' : typeof value;
}

function characters(value: unknown): number {
  return [...String(value)].length;
}

/** Echoes are short: an answer must not carry back what a client sent by the megabyte. */
function quoted(value: unknown): string {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
  return JSON.stringify(text.length > 64 ? `${text.slice(0, 64)}…` : text);
}
