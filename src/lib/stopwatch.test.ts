import { expect, test } from 'vitest';
import { startStopwatch } from './stopwatch.ts';

test('what passes belongs to the lap that ends it, and the same one is added up', () => {
  let nowMs = 100;
  const watch = startStopwatch(() => nowMs);
  const lap = (phase: string, atMs: number) => {
    nowMs = atMs;
    watch.lap(phase);
  };
  lap('prepare', 110);
  lap('postgres', 150);
  lap('prepare', 155);
  expect(watch.laps).toEqual({ prepare: 15, postgres: 40 });
});
