import { describe, expect, test } from 'vitest';
import { resolveComputeSize, resolveDefaultEndpointSettings, validateSuspendTimeout } from './compute-settings.ts';

const present = { minCu: 0.25, maxCu: 0.25 };
const resolve = (min?: number, max?: number, from = present) =>
  resolveComputeSize({ autoscaling_limit_min_cu: min, autoscaling_limit_max_cu: max }, from);

describe('the size of a compute', () => {
  test.each([
    [0.25, 0.25],
    [0.25, 2],
    [0.5, 8],
    [1, 9],
    [8, 16],
    [16, 16],
    [18, 18],
    [56, 56],
  ])('%d to %d', (min, max) => {
    expect(resolve(min, max)).toEqual({ minCu: min, maxCu: max });
  });

  test.each([
    [0.3, 1],
    [0.75, 1],
    [1.5, 2],
    [2, 1],
    [0.25, 9],
    [8, 17],
    [17, 17],
    [14, 18],
    [18, 20],
    [58, 58],
    [0.1, 0.25],
    [Number.NaN, 1],
  ])('not %d to %d', (min, max) => {
    expect(() => resolve(min, max)).toThrow(/invalid request/);
  });

  test('an end that was not named stays where it fits, and follows the other where it does not', () => {
    expect(resolve(undefined, 2)).toEqual({ minCu: 0.25, maxCu: 2 });
    expect(resolve(undefined, 16)).toEqual({ minCu: 16, maxCu: 16 });
    expect(resolve(4)).toEqual({ minCu: 4, maxCu: 4 });
    expect(resolve(undefined, undefined, { minCu: 1, maxCu: 2 })).toEqual({ minCu: 1, maxCu: 2 });
  });
});

test('a suspend timeout is 0, -1, or from a minute to a week', () => {
  for (const seconds of [0, -1, 60, 604_800]) expect(validateSuspendTimeout(seconds)).toBe(seconds);
  for (const seconds of [-2, 1, 59, 604_801]) expect(() => validateSuspendTimeout(seconds)).toThrow(/suspend_timeout/);
});

test('defaults keep what was not named', () => {
  const before = { autoscaling_limit_min_cu: 1, autoscaling_limit_max_cu: 2, pg_settings: { work_mem: '8MB' } };
  expect(resolveDefaultEndpointSettings({ suspend_timeout_seconds: 120 }, before, 17)).toEqual({
    ...before,
    suspend_timeout_seconds: 120,
  });
  expect(resolveDefaultEndpointSettings({ pg_settings: {} }, before, 17).pg_settings).toEqual({});
});
