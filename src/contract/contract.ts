/**
 * The contract as the rest of the code uses it: the operation table, request decoders and response checks of one
 * document. Everything is compiled on first use and kept.
 */
import type { ContractDocument } from './document.ts';
import type { Operation } from './operations.ts';
import { operationTable } from './operations.ts';
import type { RequestDecoder } from './requests.ts';
import { createRequestDecoder } from './requests.ts';
import type { Schemas } from './schemas.ts';
import { createSchemas } from './schemas.ts';

export interface Contract {
  document: ContractDocument;
  operations: ReadonlyMap<string, Operation>;
  schemas: Schemas;
  decoder(operation: Operation): RequestDecoder;
  /** Undefined when the body is what the document promises for that status; otherwise what is wrong. */
  checkResponse(operation: Operation, status: number, body: unknown): string | undefined;
}

export function createContract(document: ContractDocument): Contract {
  const schemas = createSchemas(document);
  return {
    document,
    operations: operationTable(document),
    schemas,
    decoder: (operation) => createRequestDecoder(document, schemas, operation),
    checkResponse: (operation, status, body) => checkResponse(schemas, operation, status, body),
  };
}

function checkResponse(schemas: Schemas, operation: Operation, status: number, body: unknown): string | undefined {
  const key = Object.hasOwn(operation.responses, String(status)) ? String(status) : 'default';
  if (key === 'default' && status < 400) return `${operation.operationId} never answers ${status}`;
  const pointer = operation.responses[key];
  if (pointer === undefined) {
    return status === 204 && body !== undefined && body !== ''
      ? `${operation.operationId} ${status} must have no body`
      : undefined;
  }
  const wrong = schemas.at(pointer)(body);
  return wrong && `${operation.operationId} ${status}: ${wrong.field || 'body'} (${wrong.problem})`;
}
