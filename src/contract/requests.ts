/**
 * Requests into values: path, query and body of one operation, decoded, typed and validated by the document.
 *
 * Every failure is an AppError of kind `invalid` (`unsupported_media` for a body in another format) whose text starts
 * with `invalid request: ` and names the field. Defaults are not filled in: the rules tell "absent" from "given".
 */
import { AppError } from '../lib/errors.ts';
import type { ContractDocument, DocumentParameter, JsonSchema } from './document.ts';
import { dereference } from './document.ts';
import { parseForm, parseText, shapeForm } from './form.ts';
import type { Operation } from './operations.ts';
import type { Check, Complaint, Schemas } from './schemas.ts';

export type RawQuery = Record<string, string | string[] | undefined>;

export interface RequestDecoder {
  params(raw: Record<string, string>): Record<string, unknown>;
  query(raw: RawQuery): Record<string, unknown>;
  /** Undefined for an operation without a body and for an empty one that is optional. */
  body(contentType: string | undefined, raw: Buffer | undefined): unknown;
}

/** JSON nested deeper than this is refused: nothing in the contract is, and the rest of the code may recurse. */
const MAX_DEPTH = 32;

const JSON_TYPE = 'application/json';
const FORM_TYPE = 'application/x-www-form-urlencoded';

export function createRequestDecoder(
  document: ContractDocument,
  schemas: Schemas,
  operation: Operation,
): RequestDecoder {
  const readers = operation.parameters.map((parameter) => parameterReader(document, schemas, parameter));
  const paths = readers.filter((reader) => reader.in === 'path');
  const queries = readers.filter((reader) => reader.in === 'query');
  return {
    params: (raw) => readAll(paths, raw),
    query: (raw) => readAll(queries, raw),
    body: bodyReader(document, schemas, operation),
  };
}

interface ParameterReader {
  in: string;
  name: string;
  read(raw: string | string[] | undefined): unknown;
}

function readAll(readers: readonly ParameterReader[], raw: RawQuery): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const reader of readers) {
    const value = reader.read(raw[reader.name]);
    if (value !== undefined) values[reader.name] = value;
  }
  return values;
}

function parameterReader(document: ContractDocument, schemas: Schemas, parameter: DocumentParameter): ParameterReader {
  const schema = dereference(document, parameter.schema);
  const itemType = schema.type === 'array' ? dereference(document, schema.items ?? {}).type : undefined;
  const check = schemas.of(parameter.schema);
  const fail = (problem: string): never => {
    throw new AppError('invalid', `invalid request: decode params: ${parameter.in}: "${parameter.name}": ${problem}`);
  };
  return {
    in: parameter.in,
    name: parameter.name,
    read(raw) {
      // `?cursor=` means the same as no cursor, which is how clients print an absent value.
      if (raw === undefined || raw === '') return parameter.required ? fail('field required') : undefined;
      const value =
        schema.type === 'array'
          ? splitList(raw).map((item) => parseText(itemType, item))
          : parseText(schema.type, first(raw));
      const wrong = check(value) ?? ([value].flat().some(isUnfit) ? UNFIT : undefined);
      return wrong ? fail(parameterProblem(wrong)) : value;
    },
  };
}

function first(raw: string | string[]): string {
  return Array.isArray(raw) ? (raw[0] ?? '') : raw;
}

function splitList(raw: string | string[]): string[] {
  return [raw]
    .flat()
    .flatMap((part) => part.split(','))
    .filter((part) => part !== '');
}

function parameterProblem(wrong: Complaint): string {
  return wrong.field === '' ? wrong.problem : `${wrong.field} (${wrong.problem})`;
}

function bodyReader(document: ContractDocument, schemas: Schemas, operation: Operation): RequestDecoder['body'] {
  const body = operation.body;
  if (body === undefined) return () => undefined;
  const schema: JsonSchema = { $ref: body.schema };
  const check: Check | undefined = body.schema === undefined ? undefined : schemas.of(schema);
  return (contentType, raw) => {
    if (raw === undefined || raw.length === 0) {
      if (body.required) throw new AppError('invalid', 'invalid request: decode request: body required');
      return undefined;
    }
    const mediaType = contentType?.split(';', 1)[0]!.trim().toLowerCase() || JSON_TYPE;
    if (check === undefined || (mediaType !== JSON_TYPE && mediaType !== FORM_TYPE)) {
      throw new AppError(
        'unsupported_media',
        `invalid request: decode request: unexpected Content-Type: ${printable(mediaType)}`,
      );
    }
    const text = raw.toString('utf8');
    const value = mediaType === JSON_TYPE ? parseJson(text) : shapeForm(document, schema, parseFormBody(text));
    const wrong = disarm(value) ?? check(value);
    if (wrong) throw new AppError('invalid', `invalid request: decode ${mediaType}: ${bodyProblem(wrong)}`);
    return value;
  };
}

function bodyProblem(wrong: Complaint): string {
  return wrong.field === '' ? wrong.problem : `invalid: ${printable(wrong.field)} (${wrong.problem})`;
}

function parseFormBody(text: string): Record<string, unknown> {
  try {
    return parseForm(text);
  } catch {
    throw new AppError('invalid', `invalid request: decode ${FORM_TYPE}: nested too deep or too many fields`);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The parser's own message quotes the body, which may hold a password.
    throw new AppError('invalid', `invalid request: decode ${JSON_TYPE}: malformed JSON`);
  }
}

/** Removes own `__proto__` keys, which a later copy could turn into a prototype; finds deep nesting and unfit text. */
function disarm(root: unknown): Complaint | undefined {
  const pending: [unknown, number][] = [[root, 0]];
  for (let entry = pending.pop(); entry !== undefined; entry = pending.pop()) {
    const [value, depth] = entry;
    if (isUnfit(value)) return UNFIT;
    if (typeof value !== 'object' || value === null) continue;
    if (depth === MAX_DEPTH) return { field: '', problem: 'nested too deep' };
    if (Object.hasOwn(value, '__proto__')) delete (value as Record<string, unknown>)['__proto__'];
    for (const [key, inner] of Object.entries(value)) {
      if (isUnfit(key)) return UNFIT;
      pending.push([inner, depth + 1]);
    }
  }
  return undefined;
}

/** Text that PostgreSQL cannot store: NUL characters and halves of surrogate pairs. */
function isUnfit(value: unknown): boolean {
  return typeof value === 'string' && /[\0\p{Surrogate}]/u.test(value);
}

const UNFIT: Complaint = { field: '', problem: 'string: invalid characters' };

/** What a client sent, fit for an error text. */
function printable(text: string): string {
  const clean = text.replaceAll(/[^\x20-\x7e]/g, '?');
  return clean.length > 128 ? `${clean.slice(0, 128)}...` : clean;
}
