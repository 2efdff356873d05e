/**
 * Checks any answer of the API against the document: required fields there, declared fields of their types, unknown
 * fields allowed, errors in the error shape, a status that the operation may answer.
 *
 *   const checker = await responseChecker();
 *   checker.check('getProject', 200, body);
 *   checker.checkRequest('GET', '/api/v2/projects/p1', 200, body);
 */
import type { Contract } from '../../src/contract/contract.ts';
import type { Operation } from '../../src/contract/operations.ts';
import { testContract } from './contract.ts';

export interface ResponseChecker {
  contract: Contract;
  /** Throws Error saying which field is wrong. `body` is the parsed JSON; undefined or '' for an empty one. */
  check(operationId: string, status: number, body: unknown): void;
  /** The same for a request as it was sent. Paths outside the contract are errors, unless the answer was 404, 405 or 410. */
  checkRequest(method: string, url: string, status: number, body: unknown): void;
  /** The operation that a request reaches. */
  find(method: string, url: string): Operation | undefined;
}

export async function responseChecker(): Promise<ResponseChecker> {
  const contract = await testContract();
  const patterns = [...contract.operations.values()].map((operation) => ({
    operation,
    pattern: pathPattern(operation.path),
  }));
  // Literal segments win over parameters, as in the router.
  patterns.sort((a, b) => parameterCount(a.operation) - parameterCount(b.operation));

  const assertResponse = (operation: Operation, status: number, body: unknown): void => {
    const wrong = contract.checkResponse(operation, status, body);
    if (wrong !== undefined) throw new Error(`${wrong}\n${JSON.stringify(body, undefined, 2)?.slice(0, 2000)}`);
  };
  const find = (method: string, url: string): Operation | undefined => {
    const path = new URL(url, 'http://localhost').pathname.replace(/^\/api\/v2/, '');
    return patterns.find(({ operation, pattern }) => operation.method === method.toUpperCase() && pattern.test(path))
      ?.operation;
  };
  return {
    contract,
    find,
    check(operationId, status, body) {
      const operation = contract.operations.get(operationId);
      if (!operation) throw new Error(`the contract has no operation ${operationId}`);
      assertResponse(operation, status, body);
    },
    checkRequest(method, url, status, body) {
      const operation = find(method, url);
      if (operation) return assertResponse(operation, status, body);
      if (![404, 405, 410].includes(status))
        throw new Error(`${method} ${url} is no operation of the contract, but answered ${status}`);
      const wrong = contract.schemas.at('#/components/schemas/GeneralError')(body);
      if (wrong) throw new Error(`${method} ${url} ${status}: ${wrong.field} (${wrong.problem})`);
    },
  };
}

function pathPattern(path: string): RegExp {
  return new RegExp(`^${path.replaceAll('.', String.raw`\.`).replaceAll(/\{\w+\}/g, '[^/]+')}$`);
}

function parameterCount(operation: Operation): number {
  return operation.parameters.filter((parameter) => parameter.in === 'path').length;
}
