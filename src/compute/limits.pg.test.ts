/**
 * What the supervisor asks of limits while a real Postgres starts, changes its size, stops and ends by itself.
 */
import { access } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import { waitFor } from '../../test/support/wait.ts';
import { readPostmaster } from '../postgres/server.ts';
import type { Bounds } from './autoscale.ts';
import type { ComputeLimits, ComputePlace } from './limits.ts';
import type { Supervisor } from './types.ts';

let engine: TestEngine;
let supervisor: Supervisor;
let major: number;
let counter = 0;
let events: string[];

beforeAll(async () => {
  major = (await testMajors()).at(-1)!;
  engine = await openTestEngine();
  supervisor = engine.anotherSupervisor({ limits: recorded() });
});
afterAll(() => engine.close());
beforeEach(() => {
  events = [];
});

/** Writes down what happens. A place is entered slowly, as by a kernel that takes its time. */
function recorded(): ComputeLimits {
  const place = (endpointId: string): ComputePlace => {
    let size: number | undefined;
    return {
      enter: async (pid) => {
        await new Promise(setImmediate);
        events.push(`enter ${pid}`);
      },
      follow: async ({ minCu, maxCu }: Bounds) => {
        size = minCu;
        events.push(`follow ${minCu} ${maxCu}`);
      },
      cu: () => size,
      lift: async () => void events.push('lift'),
      remove: async () => void events.push(`remove ${endpointId}`),
    };
  };
  return {
    open: async (endpointId) => place(endpointId),
    adopt: async (endpointId, pid) => {
      events.push(`adopt ${pid}`);
      return place(endpointId);
    },
    removeStale: async (running) => void events.push(`keep ${[...running].toSorted().join(' ')}`),
    look: () => undefined,
    close: async () => undefined,
  };
}

async function fresh(overrides: object = {}) {
  const spec = engine.spec(`ep-limits-${++counter}`, major, overrides);
  await engine.storage.create(spec.timeline, major);
  return spec;
}

async function pidOf(spec: { timeline: { projectId: string; timelineId: string } }): Promise<number> {
  return (await readPostmaster(engine.storage.dataDirectory(spec.timeline)))!.pid;
}

test('a compute is put in its place before it serves, and the place goes with it', async () => {
  const spec = await fresh({ maxCu: 1 });
  await supervisor.start(spec, []);
  const pid = await pidOf(spec);
  expect(events).toEqual([`enter ${pid}`, 'follow 0.25 1']);
  expect(supervisor.sizes().get(spec.endpointId)).toBe(0.25);
  await supervisor.suspend(spec.endpointId);
  expect(events.slice(2)).toEqual(['lift', `remove ${spec.endpointId}`]);
  expect(supervisor.sizes().has(spec.endpointId)).toBe(false);
});

test('limits that Postgres does not know of change while clients are connected, and are remembered', async () => {
  const spec = await fresh({ minCu: 0.5, maxCu: 2 });
  const verifier = await testVerifier();
  const address = await supervisor.start(spec, [{ kind: 'create_role', name: 'alice', verifier, noLogin: false }]);
  const client = await connectAs(address, 'alice');
  const pid = await pidOf(spec);
  events = [];
  expect(await supervisor.start({ ...spec, minCu: 1 }, [])).toEqual(address);
  expect(events).toEqual(['follow 1 2']);
  expect((await client.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
  await client.end();

  const next = engine.anotherSupervisor({ limits: recorded() });
  expect(await next.adopt()).toContain(spec.endpointId);
  expect(events).toContain(`adopt ${pid}`);
  expect(events.at(-1)).toContain('keep ');
  expect(events.at(-1)).toContain(spec.endpointId);
  expect(next.sizes().get(spec.endpointId)).toBe(1);
  expect(await next.start({ ...spec, minCu: 1 }, [])).toEqual(address);
  expect(await pidOf(spec)).toBe(pid);
  await next.suspend(spec.endpointId);
});

test('limits that Postgres fixes at its start take a restart', async () => {
  const spec = await fresh();
  await supervisor.start(spec, []);
  const pid = await pidOf(spec);
  await supervisor.start({ ...spec, maxCu: 2 }, []);
  expect(await pidOf(spec)).not.toBe(pid);
  expect(events.at(-1)).toBe('follow 0.25 2');
  await supervisor.suspend(spec.endpointId);
});

test('the place of a compute that was killed goes', async () => {
  const spec = await fresh();
  await supervisor.start(spec, []);
  process.kill(await pidOf(spec), 'SIGKILL');
  await waitFor('its end to be noticed', async () => events.includes(`remove ${spec.endpointId}`), {
    timeoutMs: 60_000,
  });
  expect(supervisor.running()).not.toContain(spec.endpointId);
});

test('a compute that does not start leaves no place', async () => {
  const spec = await fresh({ pgSettings: { work_mem: 'no size' } });
  await expect(supervisor.start(spec, [])).rejects.toMatchObject({ kind: 'unprocessable' });
  expect(events.at(-1)).toBe(`remove ${spec.endpointId}`);
  await expect(access(engine.storage.dataDirectory(spec.timeline) + '/postmaster.pid')).rejects.toThrow('ENOENT');
});
