import { expect, test } from 'vitest';
import { silentLogger } from '../lib/log.ts';
import { WINDOW_MS } from './autoscale.ts';
import type { Cgroup, CgroupLimits, Cgroups } from './cgroups.ts';
import { createComputeLimits, type LimitMode } from './limits.ts';
import { GIB } from './sizes.ts';

/** A group in memory, which remembers what was asked of it. */
class FakeCgroup implements Cgroup {
  directory = '/cgroup';
  limits: CgroupLimits | undefined;
  entered: number[] = [];
  removed = false;
  reads = 0;
  processorMs = 0;
  periods = 0;
  throttledPeriods = 0;
  memory = 0;
  workingSet = 0;
  broken = false;

  async enter(pid: number): Promise<void> {
    this.entered.push(pid);
  }
  async limit(limits: CgroupLimits): Promise<void> {
    if (this.broken) throw new Error('EINVAL');
    this.limits = limits;
  }
  usage() {
    this.reads += 1;
    if (this.broken) throw new Error('ENOENT');
    return { processorMs: this.processorMs, periods: this.periods, throttledPeriods: this.throttledPeriods };
  }
  memoryBytes(): number {
    this.reads += 1;
    return this.memory;
  }
  workingSetBytes(): number {
    this.reads += 1;
    return this.workingSet;
  }
  async remove(): Promise<void> {
    this.removed = true;
  }
}

function fixture(mode: LimitMode) {
  const cgroup = new FakeCgroup();
  let nowMs = 1000;
  const cgroups: Cgroups = {
    create: async () => cgroup,
    removeStale: async () => undefined,
    close: async () => undefined,
  };
  const limits = createComputeLimits({
    mode,
    cgroups,
    findCgroup: async () => cgroup,
    logger: silentLogger(),
    nowMs: () => nowMs,
    // The test looks.
    lookEveryMs: 2 ** 30,
  });
  /** A while passes in which it used so much. */
  const pass = async (ms: number, processors: number, throttled = 0) => {
    nowMs += ms;
    cgroup.processorMs += ms * processors;
    cgroup.periods += 10;
    cgroup.throttledPeriods += throttled * 10;
    limits.look();
    await new Promise(setImmediate);
  };
  return { cgroup, limits, pass };
}

const NONE = { weight: undefined, processors: undefined, memoryHighBytes: undefined, memoryMaxBytes: undefined };
const BOUNDS = { minCu: 0.25, maxCu: 2 };

test('hard: none while it starts, those of its size while it serves, none while it stops', async () => {
  const { cgroup, limits, pass } = fixture('hard');
  const place = (await limits.open('ep-a'))!;
  await place.enter(42);
  expect(cgroup.entered).toEqual([42]);
  expect(place.cu()).toBeUndefined();
  await place.follow(BOUNDS);
  expect(place.cu()).toBe(0.25);
  expect(cgroup.limits).toEqual({ weight: 25, processors: 0.25, memoryHighBytes: GIB, memoryMaxBytes: 8 * GIB });

  await pass(1000, 0.24, 0.8);
  expect(cgroup.limits).toMatchObject({ weight: 50, processors: 0.5, memoryHighBytes: 2 * GIB });
  await pass(1000, 0.5, 0.8);
  await pass(1000, 1, 0.8);
  await pass(1000, 2, 0.8);
  expect(place.cu()).toBe(2);
  expect(cgroup.limits).toMatchObject({ processors: 2, memoryHighBytes: 8 * GIB });
  for (let window = 0; window < 5; window++) await pass(WINDOW_MS, 0);
  expect(cgroup.limits).toMatchObject({ processors: 0.25, memoryHighBytes: GIB });

  await place.lift();
  expect(cgroup.limits).toEqual(NONE);
  await place.remove();
  expect(cgroup.removed).toBe(true);
});

test('shares: a weight that follows, and no limit', async () => {
  const { cgroup, limits, pass } = fixture('shares');
  const place = (await limits.open('ep-a'))!;
  await place.follow(BOUNDS);
  expect(cgroup.limits).toEqual({ ...NONE, weight: 25 });
  await pass(1000, 1.4);
  expect(cgroup.limits).toEqual({ ...NONE, weight: 200 });
});

test('memory that is worked on makes it grow; files in the cache do not', async () => {
  const { cgroup, limits, pass } = fixture('hard');
  const place = (await limits.open('ep-a'))!;
  await place.follow(BOUNDS);
  cgroup.memory = GIB;
  cgroup.workingSet = 0.1 * GIB;
  await pass(1000, 0.05);
  expect(place.cu()).toBe(0.25);
  cgroup.workingSet = GIB;
  await pass(1000, 0.05);
  expect(place.cu()).toBe(0.5);
});

test('new bounds count at once, and the size that it had stays where they allow it', async () => {
  const { cgroup, limits, pass } = fixture('hard');
  const place = (await limits.open('ep-a'))!;
  await place.follow({ minCu: 1, maxCu: 4 });
  await pass(1000, 0.9, 0.9);
  expect(place.cu()).toBe(2);
  await place.follow({ minCu: 0.5, maxCu: 4 });
  expect(place.cu()).toBe(2);
  await place.follow({ minCu: 3, maxCu: 4 });
  expect(cgroup.limits).toMatchObject({ processors: 3, memoryMaxBytes: 16 * GIB });
});

test('one at rest costs one read, one that cannot change its size costs none', async () => {
  const { cgroup, limits, pass } = fixture('hard');
  const place = (await limits.open('ep-a'))!;
  await place.follow(BOUNDS);
  cgroup.reads = 0;
  await pass(1000, 0);
  expect(cgroup.reads).toBe(1);
  await place.follow({ minCu: 1, maxCu: 1 });
  await pass(1000, 1);
  await place.lift();
  await pass(1000, 1);
  expect(cgroup.reads).toBe(1);
});

test('an adopted one begins large, and off takes away what an earlier Ballast has set', async () => {
  const hard = fixture('hard');
  const place = (await hard.limits.adopt('ep-a', 42))!;
  await place.follow(BOUNDS);
  expect(hard.cgroup.limits).toMatchObject({ processors: 2 });

  const off = fixture('off');
  const lifted = (await off.limits.adopt('ep-a', 42))!;
  await lifted.follow(BOUNDS);
  expect(off.cgroup.limits).toEqual(NONE);
  expect(lifted.cu()).toBeUndefined();
  expect(await off.limits.open('ep-b')).toBeUndefined();
});

test('what the kernel refuses fails nobody', async () => {
  const { cgroup, limits, pass } = fixture('hard');
  const place = (await limits.open('ep-a'))!;
  await place.follow(BOUNDS);
  cgroup.broken = true;
  await pass(1000, 1);
  expect(place.cu()).toBeUndefined();
  await place.lift();
  await place.remove();
});
