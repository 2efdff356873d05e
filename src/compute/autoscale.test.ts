import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { WINDOW_MS, firstScale, nextScale, type Bounds, type Load, type Scale } from './autoscale.ts';
import { memoryBytesOf, processorsOf } from './sizes.ts';

const SECOND = 1000;
const MAX_SHRINKS = 8;
const IDLE: Load = { processors: 0, heldBack: false, memoryBytes: 0 };

const bounds: fc.Arbitrary<Bounds> = fc
  .tuple(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 0, max: 32 }))
  .map(([min, more]) => ({ minCu: min / 4, maxCu: (min + more) / 4 }));

const load: fc.Arbitrary<Load> = fc.record({
  processors: fc.double({ min: 0, max: 40, noNaN: true }),
  heldBack: fc.boolean(),
  memoryBytes: fc.double({ min: 0, max: memoryBytesOf(40), noNaN: true }),
});

const elapsedMs = fc.oneof(fc.constant(SECOND), fc.integer({ min: 0, max: 10 * WINDOW_MS }));
const steps = fc.array(fc.tuple(load, elapsedMs), { maxLength: 200 });

/** A compute that wants so much, and gets what its size allows, once a second. */
function demand(wanted: { processors: number; memoryBytes: number }, scale: Scale, hard: boolean): Load {
  const allowed = hard ? processorsOf(scale.cu) : Infinity;
  return {
    processors: Math.min(wanted.processors, allowed),
    heldBack: wanted.processors > allowed,
    memoryBytes: wanted.memoryBytes,
  };
}

test('whatever comes, the size is a multiple of 0.25 within the limits', () => {
  fc.assert(
    fc.property(bounds, bounds, steps, (first, second, loads) => {
      let scale = firstScale(first);
      for (const [index, [now, ms]] of loads.entries()) {
        const limits = index < loads.length / 2 ? first : second;
        scale = nextScale(scale, now, ms, limits);
        expect(scale.cu).toBeGreaterThanOrEqual(limits.minCu);
        expect(scale.cu).toBeLessThanOrEqual(limits.maxCu);
        expect(Number.isInteger(scale.cu * 4), String(scale.cu)).toBe(true);
      }
    }),
  );
});

test('it never is smaller than what it needs at the moment, as far as its limits go', () => {
  fc.assert(
    fc.property(bounds, steps, (limits, loads) => {
      let scale = firstScale(limits);
      for (const [now, ms] of loads) {
        scale = nextScale(scale, now, ms, limits);
        const enough = processorsOf(scale.cu) >= now.processors && memoryBytesOf(scale.cu) >= now.memoryBytes;
        expect(enough || scale.cu === limits.maxCu).toBe(true);
      }
    }),
  );
});

test('it shrinks at most once a window, by half at most, and not below what was needed in that window', () => {
  // Long quiet times with something in between: other loads hardly ever let it shrink.
  const quiet = fc.record({
    processors: fc.double({ min: 0, max: 4, noNaN: true }),
    heldBack: fc.constant(false),
    memoryBytes: fc.double({ min: 0, max: memoryBytesOf(4), noNaN: true }),
  });
  const stretches = fc.array(fc.tuple(fc.oneof(fc.constant(IDLE), quiet, load), fc.integer({ min: 1, max: 70 })), {
    minLength: 2,
    maxLength: 8,
  });
  let shrinks = 0;
  fc.assert(
    fc.property(bounds, stretches, (limits, loads) => {
      let scale = firstScale(limits, limits.maxCu);
      let sinceShrink: Load[] = [];
      for (const now of loads.flatMap(([same, seconds]) => Array.from({ length: seconds }, () => same))) {
        const before = scale.cu;
        scale = nextScale(scale, now, SECOND, limits);
        sinceShrink.push(now);
        if (scale.cu >= before) continue;
        shrinks += 1;
        expect(scale.cu).toBeGreaterThanOrEqual(before / 2);
        const recent = sinceShrink.slice(-WINDOW_MS / SECOND);
        expect(recent).toHaveLength(WINDOW_MS / SECOND);
        const most = Math.max(...recent.map(({ processors }) => processors));
        expect(processorsOf(scale.cu) >= most || scale.cu === limits.maxCu).toBe(true);
        sinceShrink = [];
      }
    }),
  );
  expect(shrinks).toBeGreaterThan(20);
});

test.for([true, false])('under full load it is at its maximum within a few seconds; hard limits: %s', (hard) => {
  fc.assert(
    fc.property(bounds, (limits) => {
      let scale = firstScale(limits);
      const doublings = Math.ceil(Math.log2(limits.maxCu / limits.minCu));
      for (let second = 0; second < Math.max(1, doublings); second++) {
        scale = nextScale(scale, demand({ processors: 2 * limits.maxCu, memoryBytes: 0 }, scale, hard), SECOND, limits);
      }
      expect(scale.cu).toBe(limits.maxCu);
    }),
  );
});

test('a constant demand ends in a constant size, without swinging, and with room', () => {
  const wanted = fc.record({
    processors: fc.double({ min: 0, max: 20, noNaN: true }),
    memoryBytes: fc.double({ min: 0, max: memoryBytesOf(20), noNaN: true }),
  });
  fc.assert(
    fc.property(bounds, wanted, fc.boolean(), fc.boolean(), (limits, always, hard, large) => {
      let scale = firstScale(limits, large ? limits.maxCu : limits.minCu);
      const run = (seconds: number) => {
        const seen = new Set<number>();
        for (let second = 0; second < seconds; second++) {
          scale = nextScale(scale, demand(always, scale, hard), SECOND, limits);
          seen.add(scale.cu);
        }
        return seen;
      };
      run((MAX_SHRINKS * WINDOW_MS) / SECOND);
      expect(run(300).size).toBe(1);
      const used = Math.max(always.processors / processorsOf(1), always.memoryBytes / memoryBytesOf(1));
      if (scale.cu < limits.maxCu) expect(used).toBeLessThanOrEqual(scale.cu);
      // No more room than one step over what is needed, or what doubling overshot before it could shrink.
      if (scale.cu > limits.minCu) expect(used / 0.75).toBeGreaterThan(scale.cu - 0.25 - 1e-9);
    }),
  );
});

test('idle, it is back at its minimum after a while', () => {
  fc.assert(
    fc.property(bounds, (limits) => {
      let scale = firstScale(limits, limits.maxCu);
      for (let window = 0; window < MAX_SHRINKS; window++) scale = nextScale(scale, IDLE, WINDOW_MS, limits);
      expect(scale.cu).toBe(limits.minCu);
    }),
  );
});

describe('a load that comes and goes', () => {
  const limits = { minCu: 0.25, maxCu: 4 };

  test('every twenty seconds, it is grown for once', () => {
    let scale = firstScale(limits);
    const sizes: number[] = [];
    for (let second = 0; second < 600; second++) {
      const busy = second % 20 < 3;
      scale = nextScale(scale, demand({ processors: busy ? 3 : 0, memoryBytes: 0 }, scale, true), SECOND, limits);
      sizes.push(scale.cu);
    }
    const changes = sizes.filter((cu, index) => index > 0 && cu !== sizes[index - 1]);
    expect(changes).toEqual([1, 2, 4].slice(-changes.length));
    expect(sizes.at(-1)).toBe(4);
  });

  test('memory in use keeps it large', () => {
    let scale = firstScale(limits);
    const busy: Load = { processors: 0.01, heldBack: false, memoryBytes: memoryBytesOf(1.4) };
    for (let second = 0; second < 300; second++) scale = nextScale(scale, busy, SECOND, limits);
    expect(scale.cu).toBe(2);
  });
});
