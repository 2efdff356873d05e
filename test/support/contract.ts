/**
 * The contract for tests, made from the packages and openapi/ when it is missing or stale.
 */
import { createContract } from '../../src/contract/contract.ts';
import type { Contract } from '../../src/contract/contract.ts';
import { loadDocument } from '../../src/contract/document.ts';
import type { ContractDocument } from '../../src/contract/document.ts';

export async function testDocument(): Promise<ContractDocument> {
  // Plain JavaScript, shared with the build: its functions take nothing and return a path.
  const script = '../../scripts/extract-contract.mjs';
  const { ensureContract } = (await import(script)) as { ensureContract: () => string };
  ensureContract();
  return loadDocument();
}

export async function testContract(): Promise<Contract> {
  return createContract(await testDocument());
}
