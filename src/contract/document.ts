/**
 * The API document: where it is, and how to look into it.
 *
 * scripts/extract-contract.mjs makes it from the pinned package and openapi/. A build puts it beside this file
 * (dist/contract/document.json); sources read the cache of the repository (.cache/contract/document.json).
 */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export type JsonSchema = {
  $ref?: string;
  type?: string;
  format?: string;
  nullable?: boolean;
  enum?: unknown[];
  items?: JsonSchema;
  properties?: Record<string, JsonSchema>;
  additionalProperties?: boolean | JsonSchema;
  required?: string[];
  allOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  anyOf?: JsonSchema[];
  [keyword: string]: unknown;
};

export interface DocumentParameter {
  $ref?: string;
  name: string;
  in: 'path' | 'query' | 'header' | 'cookie';
  required?: boolean;
  schema: JsonSchema;
}

export interface DocumentBody {
  $ref?: string;
  required?: boolean;
  content: Record<string, { schema?: JsonSchema }>;
}

export interface DocumentResponse {
  $ref?: string;
  content?: Record<string, { schema?: JsonSchema }>;
}

export interface DocumentOperation {
  operationId: string;
  tags?: string[];
  summary?: string;
  parameters?: DocumentParameter[];
  requestBody?: DocumentBody;
  responses: Record<string, DocumentResponse>;
}

export type DocumentPath = { parameters?: DocumentParameter[] } & Partial<
  Record<'get' | 'post' | 'put' | 'patch' | 'delete', DocumentOperation>
>;

export interface ContractDocument {
  openapi: string;
  info: { title: string; version: string; description?: string };
  servers: { url: string }[];
  paths: Record<string, DocumentPath>;
  components: { schemas: Record<string, JsonSchema> };
}

/** Throws when the document has not been made yet; the message says how to make it. */
export function loadDocument(): ContractDocument {
  const candidates = ['./document.json', '../../.cache/contract/document.json'];
  const files = candidates.map((candidate) => fileURLToPath(new URL(candidate, import.meta.url)));
  const file = files.find((candidate) => existsSync(candidate));
  if (file === undefined) {
    throw new Error('the API document is missing: run "node scripts/extract-contract.mjs"');
  }
  return JSON.parse(readFileSync(file, 'utf8')) as ContractDocument;
}

/** The keys of a pointer as one text: `pointer('paths', '/projects')` is `#/paths/~1projects`. */
export function pointer(...keys: string[]): string {
  return ['#', ...keys.map((key) => key.replaceAll('~', '~0').replaceAll('/', '~1'))].join('/');
}

/** Follows `$ref`s until something that is none. Throws when one points nowhere. */
export function dereference<T extends { $ref?: string }>(document: ContractDocument, value: T): T {
  let current: T = value;
  while (current.$ref !== undefined) {
    const keys = current.$ref.slice(2).split('/');
    const found = keys.reduce<unknown>((parent, key) => {
      const name = decodeURIComponent(key).replaceAll('~1', '/').replaceAll('~0', '~');
      return (parent as Record<string, unknown> | undefined)?.[name];
    }, document);
    if (found === undefined) throw new Error(`the API document has nothing at ${current.$ref}`);
    current = found as T;
  }
  return current;
}
