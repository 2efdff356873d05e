/**
 * The response checker itself: it accepts whatever the document allows and refuses a missing or mistyped field.
 */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { responseChecker } from '../support/response-checker.ts';
import { valid } from './arbitraries.ts';

const checker = await responseChecker();
const { contract } = checker;

describe('every operation that answers JSON', () => {
  const answering = [...contract.operations.values()].filter(
    (operation) => operation.responses[operation.successStatus] !== undefined,
  );

  test.each(answering.map((operation) => [operation.operationId, operation] as const))(
    '%s',
    (operationId, operation) => {
      const schema = { $ref: operation.responses[operation.successStatus]! };
      fc.assert(
        fc.property(valid(contract.document, schema), (body) => {
          checker.check(operationId, operation.successStatus, body);
          expect(() => checker.check(operationId, operation.successStatus, 'text')).toThrow(operationId);
          expect(() => checker.check(operationId, 318, body)).toThrow('never answers');
        }),
        { numRuns: 5 },
      );
    },
  );
});

test('a missing field, a wrong type and a wrong enum value are named; unknown fields are not', () => {
  const operation = {
    id: '00000000-0000-4000-8000-000000000000',
    project_id: 'p',
    action: 'start_compute',
    status: 'running',
    failures_count: 0,
    created_at: '2026-01-01T00:00:00Z',
    updated_at: '2026-01-01T00:00:00Z',
    total_duration_ms: 0,
  };
  const check = (changed: object) =>
    checker.check('getProjectOperation', 200, { operation: { ...operation, ...changed } });
  check({});
  check({ slug: 'new' });
  expect(() => check({ failures_count: undefined })).toThrow('operation.failures_count (field required)');
  expect(() => check({ failures_count: '0' })).toThrow('operation.failures_count (expected integer, got string)');
  expect(() => check({ status: 'done' })).toThrow('operation.status (invalid value: "done")');
  expect(() => check({ created_at: 'yesterday' })).toThrow('operation.created_at (invalid date-time)');
});

test('errors have the error shape', () => {
  checker.check('getProject', 404, { request_id: 'r', code: '', message: 'project not found' });
  expect(() => checker.check('getProject', 404, { error: 'x' })).toThrow('field required');
});

test('204 has no body', () => {
  checker.check('deleteProjectBranch', 204, undefined);
  expect(() => checker.check('deleteProjectBranch', 204, {})).toThrow('must have no body');
});

test('requests are found as the router finds them', () => {
  expect(checker.find('GET', '/api/v2/projects/shared?limit=1')?.operationId).toBe('listSharedProjects');
  expect(checker.find('GET', 'http://localhost:8080/api/v2/projects/p1')?.operationId).toBe('getProject');
  expect(checker.find('PUT', '/api/v2/projects/p1')).toBeUndefined();
  checker.checkRequest('GET', '/api/v2/nowhere', 404, { code: '', message: 'this route does not exist' });
  expect(() => checker.checkRequest('GET', '/api/v2/nowhere', 200, {})).toThrow('no operation');
});
