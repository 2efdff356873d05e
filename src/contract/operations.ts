/**
 * The table of operations, read once from the document: what is served where, and with which schemas.
 * Schemas stay in the document; an operation names them by JSON pointer, so that validators are compiled on first use.
 */
import type { ContractDocument, DocumentOperation, DocumentParameter, DocumentPath } from './document.ts';
import { dereference, pointer } from './document.ts';

const METHODS = ['get', 'post', 'put', 'patch', 'delete'] as const;

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface Operation {
  operationId: string;
  method: Method;
  /** Template below the server's base, `/projects/{project_id}`. */
  path: string;
  tags: readonly string[];
  parameters: readonly DocumentParameter[];
  /** Undefined: what is sent as a body is ignored. */
  body: OperationBody | undefined;
  /** The lowest 2xx status that the document names. */
  successStatus: number;
  /** JSON schema pointer by status (`200`, `default`); undefined: a response without a JSON body. */
  responses: Readonly<Record<string, string | undefined>>;
}

export interface OperationBody {
  required: boolean;
  contentTypes: readonly string[];
  /** Pointer of the schema of `application/json`; undefined when the operation takes none. */
  schema: string | undefined;
}

/** By operationId, in the order of the document. */
export function operationTable(document: ContractDocument): Map<string, Operation> {
  const table = new Map<string, Operation>();
  for (const [path, item] of Object.entries(document.paths)) {
    for (const method of METHODS) {
      const found = item[method];
      if (found) table.set(found.operationId, readOperation(document, path, item, method, found));
    }
  }
  return table;
}

function readOperation(
  document: ContractDocument,
  path: string,
  item: DocumentPath,
  method: (typeof METHODS)[number],
  operation: DocumentOperation,
): Operation {
  const here = ['paths', path, method];
  return {
    operationId: operation.operationId,
    method: method.toUpperCase() as Method,
    path,
    tags: operation.tags ?? [],
    parameters: readParameters(document, item, operation),
    body: readBody(document, operation, here),
    successStatus: Math.min(
      ...Object.keys(operation.responses)
        .map(Number)
        .filter((status) => status >= 200 && status < 300),
    ),
    responses: Object.fromEntries(
      Object.keys(operation.responses).map((status) => [status, responseSchema(document, operation, status, here)]),
    ),
  };
}

function readParameters(
  document: ContractDocument,
  item: DocumentPath,
  operation: DocumentOperation,
): DocumentParameter[] {
  const byName = new Map<string, DocumentParameter>();
  // The operation's own declaration wins over the path's, as OpenAPI has it.
  for (const declared of [...(item.parameters ?? []), ...(operation.parameters ?? [])]) {
    const parameter = dereference(document, declared);
    byName.set(`${parameter.in} ${parameter.name}`, parameter);
  }
  return [...byName.values()].filter((parameter) => parameter.in === 'path' || parameter.in === 'query');
}

function readBody(document: ContractDocument, operation: DocumentOperation, here: string[]): OperationBody | undefined {
  if (!operation.requestBody) return undefined;
  const body = dereference(document, operation.requestBody);
  return {
    required: body.required === true,
    contentTypes: Object.keys(body.content),
    schema:
      body.content['application/json'] && pointer(...here, 'requestBody', 'content', 'application/json', 'schema'),
  };
}

function responseSchema(
  document: ContractDocument,
  operation: DocumentOperation,
  status: string,
  here: string[],
): string | undefined {
  const declared = operation.responses[status]!;
  const tail = ['content', 'application/json', 'schema'];
  if (dereference(document, declared).content?.['application/json']?.schema === undefined) return undefined;
  // A pointer cannot lead through a $ref: start where the response really is.
  return declared.$ref === undefined
    ? pointer(...here, 'responses', status, ...tail)
    : `${declared.$ref}/${tail.join('/').replace('application/json', 'application~1json')}`;
}
