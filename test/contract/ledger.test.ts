/**
 * The coverage ledger tells the truth: an operation has a handler exactly when the ledger says so, and answers 501 otherwise.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ApiServer } from '../../src/api/server.ts';
import type { Contract } from '../../src/contract/contract.ts';
import type { Operation } from '../../src/contract/operations.ts';
import { handlers } from '../../src/api/handlers.ts';
import { testContract } from '../support/contract.ts';
import { call, fakeApi } from './api-fixture.ts';

interface Entry {
  status: 'implemented' | 'partial' | 'not-offered';
  why?: string;
}

const ledger = JSON.parse(readFileSync(new URL('../../openapi/ledger.json', import.meta.url), 'utf8')) as Record<
  string,
  Entry
>;
let contract: Contract;
let api: ApiServer;

beforeAll(async () => {
  contract = await testContract();
  api = await fakeApi(handlers);
});
afterAll(() => api.close());

test('the contract has the published operations and the newer ones', () => {
  expect(contract.operations.size).toBe(182);
});

test('names every operation, and no other', () => {
  expect(Object.keys(ledger).toSorted()).toEqual([...contract.operations.keys()].toSorted());
});

test('gives a reason for whatever is not implemented', () => {
  for (const [operationId, entry] of Object.entries(ledger)) {
    expect(['implemented', 'partial', 'not-offered'], operationId).toContain(entry.status);
    expect(typeof entry.why, operationId).toBe(entry.status === 'implemented' ? 'undefined' : 'string');
  }
});

test('agrees with the handlers', () => {
  const offered = Object.keys(ledger).filter((operationId) => ledger[operationId]!.status !== 'not-offered');
  expect(Object.keys(handlers).toSorted()).toEqual(offered.toSorted());
});

describe('every operation is routed', () => {
  test.each(Object.entries(ledger))('%s', async (operationId, entry) => {
    const operation = contract.operations.get(operationId)!;
    const stranger = await call(api, operation.method, samplePath(operation), { key: false });
    expect(stranger.status).toBe(401);
    if (entry.status !== 'not-offered') return;
    const answer = await call(api, operation.method, samplePath(operation));
    expect(answer).toMatchObject({ status: 501, body: { code: '', message: expect.stringContaining(operationId) } });
  });
});

test('docs/coverage.md is current (node scripts/coverage.mjs)', async () => {
  const script = '../../scripts/coverage.mjs';
  const { renderCoverage, coverageFile } = (await import(script)) as {
    renderCoverage: () => string;
    coverageFile: string;
  };
  expect(readFileSync(coverageFile, 'utf8')).toBe(renderCoverage());
});

function samplePath(operation: Operation): string {
  return operation.path.replaceAll(/\{\w+\}/g, '1');
}
