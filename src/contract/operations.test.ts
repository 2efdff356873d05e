import { expect, test } from 'vitest';
import { testContract } from '../../test/support/contract.ts';

const { operations, document } = await testContract();
const successOf = (operationId: string) => operations.get(operationId)?.successStatus;

test('success statuses are those of the document', () => {
  for (const id of ['createProject', 'createProjectBranch', 'createProjectEndpoint', 'createProjectBranchRole']) {
    expect(successOf(id)).toBe(201);
  }
  for (const id of [
    'createApiKey',
    'createOrgApiKey',
    'createSnapshot',
    'startProjectEndpoint',
    'deleteProjectBranch',
  ]) {
    expect(successOf(id)).toBe(200);
  }
  expect(successOf('deleteSnapshot')).toBe(202);
  expect(successOf('revokeCredential')).toBe(204);
});

test('parameters come from the path, the operation and shared components', () => {
  const names = operations
    .get('listProjectBranches')!
    .parameters.map((parameter) => `${parameter.in} ${parameter.name}`);
  expect(names).toContain('path project_id');
  expect(names).toContain('query search');
  expect(names).toContain('query cursor');
});

test('every path parameter of a template is declared', () => {
  for (const operation of operations.values()) {
    const inTemplate = [...operation.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]!);
    const declared = operation.parameters
      .filter((parameter) => parameter.in === 'path')
      .map((parameter) => parameter.name);
    expect(declared.toSorted(), operation.operationId).toEqual(inTemplate.toSorted());
  }
});

test('bodies are required or optional as the document says', () => {
  expect(operations.get('createProject')!.body).toMatchObject({ required: true, contentTypes: ['application/json'] });
  expect(operations.get('createProjectBranch')!.body).toMatchObject({ required: false });
  expect(operations.get('startProjectEndpoint')!.body).toBeUndefined();
  expect(operations.get('createProjectBranchFunctionDeployment')!.body).toMatchObject({ schema: undefined });
});

test('the document is ours: title, server, keys as the only way in', () => {
  expect(document.info.title).toBe('Ballast API');
  expect(document.servers).toEqual([{ url: '/api/v2' }]);
  expect(JSON.stringify(document)).not.toContain('CookieAuth');
});
