import { expect, test } from 'vitest';
import { createByteBudget } from './byte-budget.ts';

const staying = { whenGone: () => () => undefined, reason: () => new Error('gone') };

test('never gives out more than there is, and to each in turn', async () => {
  const budget = createByteBudget({ maxBytes: 100, waitMs: 60_000 });
  const order: number[] = [];
  let most = 0;
  const work = async (bytes: number, index: number) => {
    const release = await budget.reserve(bytes, staying);
    order.push(index);
    most = Math.max(most, budget.usedBytes);
    await new Promise((resolve) => setImmediate(resolve));
    release();
    release();
  };
  const sizes = Array.from({ length: 50 }, (_, index) => 1 + ((index * 37) % 90));
  await Promise.all(sizes.map(work));
  expect(order).toEqual(sizes.map((_, index) => index));
  expect(most).toBeLessThanOrEqual(100);
  expect(budget.usedBytes).toBe(0);
});

test('what is larger than all there is waits for all there is', async () => {
  const budget = createByteBudget({ maxBytes: 100, waitMs: 60_000 });
  const release = await budget.reserve(1_000, staying);
  expect(budget.usedBytes).toBe(100);
  release();
  expect(budget.usedBytes).toBe(0);
});

test('who waits too long or goes away is in nobody’s way', async () => {
  const budget = createByteBudget({ maxBytes: 100, waitMs: 20 });
  const release = await budget.reserve(60, staying);
  const late = budget.reserve(60, staying);
  let leave: () => void = () => undefined;
  const going = budget.reserve(60, { ...staying, whenGone: (listener) => ((leave = listener), () => undefined) });
  const small = budget.reserve(40, staying);
  leave();
  await expect(going).rejects.toThrow('gone');
  await expect(late).rejects.toThrow('Too many large requests');
  (await small)();
  release();
  expect(budget.usedBytes).toBe(0);
});
