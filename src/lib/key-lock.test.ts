import { expect, test } from 'vitest';
import { KeyLock } from './key-lock.ts';

/** Work that says when it began and ends when told. */
function held(order: string[], name: string) {
  let end!: () => void;
  const ended = new Promise<void>((resolve) => (end = resolve));
  const work = async (): Promise<void> => {
    order.push(name);
    await ended;
  };
  return { work, end };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test('an exclusive holder waits for the shared ones before it, and those that come later wait for it', async () => {
  const lock = new KeyLock();
  const order: string[] = [];
  const [first, second, alone] = [held(order, 'first'), held(order, 'second'), held(order, 'alone')];
  const all = [lock.shared('a', first.work), lock.shared('a', second.work), lock.exclusive('a', alone.work)];
  for (let n = 0; n < 20; n += 1) all.push(lock.shared('a', async () => void order.push('later')));
  await settled();
  expect(order).toEqual(['first', 'second']);
  first.end();
  second.end();
  await settled();
  expect(order).toEqual(['first', 'second', 'alone']);
  alone.end();
  await Promise.all(all);
  expect(order).toHaveLength(23);
});

test('who gives up waiting leaves the queue, and holds nobody back', async () => {
  const lock = new KeyLock();
  const order: string[] = [];
  const [alone, again] = [held(order, 'alone'), held(order, 'again')];
  const abort = new AbortController();
  const first = lock.exclusive('a', alone.work);
  const leaving = lock.shared('a', async () => void order.push('never'), abort.signal);
  const second = lock.exclusive('a', again.work);
  abort.abort(new Error('enough'));
  await expect(leaving).rejects.toThrow('enough');
  alone.end();
  await first;
  again.end();
  await second;
  expect(order).toEqual(['alone', 'again']);
  await expect(lock.shared('a', async () => undefined, abort.signal)).rejects.toThrow('enough');
});

test('a signal does not end work that has begun', async () => {
  const lock = new KeyLock();
  const abort = new AbortController();
  const work = lock.shared(
    'a',
    async () => {
      await settled();
      return 'done';
    },
    abort.signal,
  );
  await Promise.resolve();
  abort.abort();
  expect(await work).toBe('done');
});
