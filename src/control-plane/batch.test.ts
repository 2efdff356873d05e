import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { createBatchedLookup } from './batch.ts';

function recorded(maxKeys?: number) {
  const queries: string[][] = [];
  const lookUp = createBatchedLookup(async (keys) => {
    queries.push([...keys]);
    await sleep(5);
    if (keys.includes('broken')) throw new Error('no catalog');
    return new Map(keys.filter((key) => key !== 'missing').map((key) => [key, key.toUpperCase()]));
  }, maxKeys);
  return { queries, lookUp };
}

test('a lone key is asked for at once; those that come meanwhile go together, each once', async () => {
  const { queries, lookUp } = recorded();
  const answers = await Promise.all(['a', 'b', 'b', 'missing'].map(lookUp));
  expect(answers).toEqual(['A', 'B', 'B', undefined]);
  expect(queries).toEqual([['a'], ['b', 'missing']]);
});

test('a key that is asked for again is looked up again', async () => {
  const { queries, lookUp } = recorded();
  const first = lookUp('a');
  const second = lookUp('a');
  await Promise.all([first, second]);
  await lookUp('a');
  expect(queries).toEqual([['a'], ['a'], ['a']]);
});

test('a failure reaches those who were in that query, and nobody else', async () => {
  const { lookUp } = recorded();
  const results = await Promise.allSettled(['a', 'broken', 'b'].map(lookUp));
  expect(results.map((result) => result.status)).toEqual(['fulfilled', 'rejected', 'rejected']);
  await expect(lookUp('b')).resolves.toBe('B');
});

test('a query takes a bounded number of keys', async () => {
  const { queries, lookUp } = recorded(2);
  await Promise.all(['a', 'b', 'c', 'd', 'e', 'f'].map(lookUp));
  expect(queries).toEqual([['a'], ['b', 'c'], ['d', 'e'], ['f']]);
});
