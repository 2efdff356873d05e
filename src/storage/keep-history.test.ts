import { expect, test } from 'vitest';
import { isDue } from './keep-history.ts';

const MIB = 1024n * 1024n;
const HOUR_MS = 3_600_000;
const running = { windowMs: 24 * HOUR_MS, cheap: true, running: true };

test.each([
  ['idle for ever', 1000n, 1000 * HOUR_MS, running, false],
  ['little written, young', MIB, HOUR_MS, running, false],
  ['little written, old for its window', MIB, 6 * HOUR_MS, running, true],
  ['little written, no window known', MIB, 1000 * HOUR_MS, { ...running, windowMs: undefined }, false],
  ['much written a moment ago', 100n * MIB, 1000, running, false],
  ['much written in a minute', 100n * MIB, 60_000, running, true],
  ['very much written a moment ago', 600n * MIB, 1000, running, true],
  ['at rest', 20n * MIB, 1000, { ...running, running: false }, true],
  ['at rest, hardly anything written', 5n * MIB, 1000, { ...running, running: false }, false],
  ['a window of nothing', MIB, 60_000, { ...running, windowMs: 0 }, true],
  ['copies, much written', 100n * MIB, HOUR_MS, { ...running, cheap: false }, false],
  ['copies, old for the window', MIB, 24 * HOUR_MS, { ...running, cheap: false }, true],
])('%s', (_name, writtenBytes, ageMs, where, due) => {
  expect(isDue(writtenBytes, ageMs, where)).toBe(due);
});
