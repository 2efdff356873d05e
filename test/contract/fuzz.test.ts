/**
 * Every operation under random requests, made from the document: what the document allows reaches the handler as it
 * was sent (as JSON and as a form), what it does not is 400, and nothing is ever a 5xx.
 */
import fc from 'fast-check';
import qs from 'qs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ApiRequest, HandlerTable } from '../../src/api/handler.ts';
import type { ApiServer } from '../../src/api/server.ts';
import type { DocumentParameter } from '../../src/contract/document.ts';
import type { Contract } from '../../src/contract/contract.ts';
import type { Operation } from '../../src/contract/operations.ts';
import { testContract } from '../support/contract.ts';
import { valid } from './arbitraries.ts';
import type { Call } from './api-fixture.ts';
import { call, fakeApi } from './api-fixture.ts';

const contract: Contract = await testContract();
const operations = [...contract.operations.values()];
/** But for those whose body is neither JSON nor a form. */
const fuzzed = operations.filter((operation) => operation.body === undefined || operation.body.schema !== undefined);
const withBody = operations.filter((operation) => operation.body?.schema !== undefined);
const RUNS = 15;

let api: ApiServer;
let received: ApiRequest | undefined;

beforeAll(async () => {
  const handlers: HandlerTable = {};
  for (const operation of operations) {
    handlers[operation.operationId] = async (_controlPlane, request) => {
      received = request;
      return {};
    };
  }
  api = await fakeApi(handlers);
});
afterAll(() => api.close());

/** What the handler got, or undefined when the request did not reach it. */
async function send(
  operation: Operation,
  url: string,
  options: Call = {},
): Promise<{ status: number; got: ApiRequest | undefined }> {
  received = undefined;
  const answer = await call(api, operation.method, url, options);
  if (answer.status >= 500)
    throw new Error(`${operation.method} ${url} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
  // A handler's own answer is no concern of this test, a refusal is.
  const wrong = answer.status >= 400 ? contract.checkResponse(operation, answer.status, answer.body) : undefined;
  if (wrong !== undefined) throw new Error(wrong);
  return { status: answer.status, got: received };
}

type Values = Record<string, unknown>;

function parameters(operation: Operation, where: 'path' | 'query'): fc.Arbitrary<Values> {
  const declared = operation.parameters.filter((parameter) => parameter.in === where);
  const model = Object.fromEntries(declared.map((parameter) => [parameter.name, parameterValue(parameter)]));
  return fc.record(model, {
    requiredKeys: declared.filter((parameter) => parameter.required).map((parameter) => parameter.name),
  });
}

/** An empty text or list is the same as none, and the dots are taken by URLs. */
function parameterValue(parameter: DocumentParameter): fc.Arbitrary<unknown> {
  return valid(contract.document, parameter.schema).filter((value) => {
    const items: unknown[] = [value].flat();
    return (
      items.length > 0 &&
      items.every((item) => item !== '' && item !== '.' && item !== '..' && !String(item).includes(','))
    );
  });
}

function pathOf(operation: Operation, values: Values): string {
  return operation.path.replaceAll(/\{(\w+)\}/g, (_all, name: string) => encodeURIComponent(String(values[name])));
}

function requestOf(operation: Operation): fc.Arbitrary<{ params: Values; query: Values; body: unknown }> {
  const body = operation.body?.schema;
  return fc.record({
    params: parameters(operation, 'path'),
    query: parameters(operation, 'query'),
    body: body === undefined ? fc.constant(undefined) : valid(contract.document, { $ref: body }),
  });
}

function urlOf(operation: Operation, request: { params: Values; query: Values }): string {
  return `${pathOf(operation, request.params)}?${qs.stringify(request.query, { arrayFormat: 'repeat' })}`;
}

describe('a valid request reaches its handler as it was sent', () => {
  test.each(fuzzed.map((operation) => [operation.operationId, operation] as const))('%s', async (_id, operation) => {
    await fc.assert(
      fc.asyncProperty(requestOf(operation), async (request) => {
        const { status, got } = await send(operation, urlOf(operation, request), { json: request.body });
        expect(status).toBe(operation.successStatus);
        expect(got).toMatchObject({ params: request.params, query: request.query });
        expect(got!.body).toEqual(request.body);
      }),
      { numRuns: RUNS },
    );
  });
});

describe('a form says the same as JSON', () => {
  test.each(withBody.map((operation) => [operation.operationId, operation] as const))('%s', async (_id, operation) => {
    await fc.assert(
      fc.asyncProperty(requestOf(operation), async (request) => {
        const body = prune(request.body);
        // A form cannot say "empty object" or "empty list".
        fc.pre(body !== undefined && contract.schemas.at(operation.body!.schema!)(body) === undefined);
        const { status, got } = await send(operation, urlOf(operation, request), {
          payload: qs.stringify(body),
          headers: { 'content-type': 'application/x-www-form-urlencoded' },
        });
        expect(status).toBe(operation.successStatus);
        expect(got!.body).toEqual(body);
      }),
      { numRuns: RUNS },
    );
  });
});

describe('a body that misses a field or has a wrong type is 400', () => {
  test.each(withBody.map((operation) => [operation.operationId, operation] as const))('%s', async (_id, operation) => {
    const check = contract.schemas.at(operation.body!.schema!);
    const anything = fc.oneof(
      fc.jsonValue(),
      requestOf(operation).chain((request) => spoiled(request.body)),
    );
    await fc.assert(
      fc.asyncProperty(requestOf(operation), anything, async (request, body) => {
        // JSON has one zero, and JavaScript two.
        const json: unknown = JSON.parse(JSON.stringify(body));
        const { status, got } = await send(operation, urlOf(operation, request), { json });
        const refused = check(withoutProto(json)) !== undefined;
        expect(status).toBe(refused ? 400 : operation.successStatus);
        expect(got === undefined).toBe(refused);
      }),
      { numRuns: RUNS },
    );
  });
});

describe('any text in path and query is an answer, never a failure', () => {
  test.each(operations.map((operation) => [operation.operationId, operation] as const))(
    '%s',
    async (_id, operation) => {
      const values = fc.string({ unit: 'binary', minLength: 1, maxLength: 30 });
      const names = operation.parameters
        .filter((parameter) => parameter.in === 'query')
        .map((parameter) => parameter.name);
      const query =
        names.length === 0
          ? fc.dictionary(values, values)
          : fc.dictionary(fc.constantFrom(...names), fc.oneof(values, fc.array(values)));
      await fc.assert(
        fc.asyncProperty(fc.array(values, { minLength: 5, maxLength: 5 }), query, async (texts, more) => {
          const params = Object.fromEntries(
            operation.parameters
              .filter((parameter) => parameter.in === 'path')
              .map((parameter, i) => [parameter.name, texts[i]]),
          );
          const { status } = await send(operation, urlOf(operation, { params, query: more }));
          expect(status).toBeLessThan(500);
        }),
        { numRuns: RUNS },
      );
    },
  );
});

describe('any bytes as a body', () => {
  test.each(withBody.slice(0, 8).map((operation) => [operation.operationId, operation] as const))(
    '%s',
    async (_id, operation) => {
      const types = fc.constantFrom('application/json', 'application/x-www-form-urlencoded', 'text/plain', 'x');
      await fc.assert(
        fc.asyncProperty(
          requestOf(operation),
          fc.uint8Array({ maxLength: 60 }),
          types,
          async (request, bytes, type) => {
            const { status } = await send(operation, urlOf(operation, request), {
              payload: Buffer.from(bytes),
              headers: { 'content-type': type },
            });
            expect([operation.successStatus, 400, 415]).toContain(status);
          },
        ),
        { numRuns: RUNS },
      );
    },
  );
});

/** One value somewhere inside replaced by something that fits hardly anywhere, or taken away. */
function spoiled(body: unknown): fc.Arbitrary<unknown> {
  const places = fieldsOf(body);
  if (places.length === 0) return fc.constantFrom<unknown>(null, [], 'x', 1);
  return fc
    .tuple(fc.constantFrom(...places), fc.constantFrom<unknown>(undefined, null, { x: [] }, [[]], -1e300, 'ü', false))
    .map(([place, value]) => {
      const copy = structuredClone(body);
      let parent = copy as Values;
      for (const key of place.slice(0, -1)) parent = parent[key] as Values;
      parent[place.at(-1)!] = value;
      return copy;
    });
}

function fieldsOf(value: unknown, here: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [[...here, key], ...fieldsOf(inner, [...here, key])]);
}

/** Without empty objects, empty lists and what is only made of them. */
function prune(value: unknown): unknown {
  if (Array.isArray(value)) {
    const list = value.map(prune).filter((item) => item !== undefined);
    return list.length === 0 ? undefined : list;
  }
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value)
    .map(([key, inner]) => [key, prune(inner)] as const)
    .filter(([, inner]) => inner !== undefined);
  return entries.length === 0 ? undefined : Object.fromEntries(entries);
}

/** What the server makes of it before it looks: own `__proto__` keys are gone. */
function withoutProto(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutProto);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => key !== '__proto__')
      .map(([key, inner]) => [key, withoutProto(inner)]),
  );
}
