/**
 * Real control groups and real Postgres. Runs as root where cgroup v2 has the controllers for processors and memory;
 * elsewhere `scripts/with-cgroups.sh` boots a kernel that has them. Not part of `npm test`.
 */
import { access, readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import { waitFor } from '../../test/support/wait.ts';
import { createLogger, silentLogger } from '../lib/log.ts';
import { readPostmaster } from '../postgres/server.ts';
import { findCgroups, thisMachine } from './cgroups.ts';
import { openComputeLimits, type LimitMode } from './limits.ts';
import type { ComputeSpec, Supervisor } from './types.ts';

const WITHIN = { timeoutMs: 120_000 };

let engine: TestEngine;
let major: number;
let counter = 0;
const problems: unknown[] = [];

beforeAll(async () => {
  const place = await findCgroups(await thisMachine());
  expect(place, 'this machine has cgroup v2 that Ballast may use').toMatchObject({ available: true });
  major = (await testMajors()).at(-1)!;
  engine = await openTestEngine();
});
afterAll(() => engine.close());

async function supervisorWith(asked: LimitMode): Promise<Supervisor> {
  const logger = createLogger({
    level: 'warn',
    destination: { write: (line) => void problems.push(JSON.parse(line)) },
  });
  const { limits, status } = await openComputeLimits({ asked, dataDirectory: engine.home.dataDir, logger });
  expect(status).toEqual({ mode: asked });
  return engine.anotherSupervisor({ limits });
}

async function started(supervisor: Supervisor, bounds: { minCu: number; maxCu: number }) {
  // Beside nothing else, and in a slow kernel, a worker of autovacuum is a load.
  const spec = engine.spec(`ep-group-${++counter}`, major, { ...bounds, pgSettings: { autovacuum: 'off' } });
  await engine.storage.create(spec.timeline, major);
  const verifier = await testVerifier();
  const address = await supervisor.start(spec, [{ kind: 'create_role', name: 'alice', verifier, noLogin: false }]);
  return { spec, address, pid: await pidOf(spec), group: await groupOf(await pidOf(spec)) };
}

async function pidOf(spec: ComputeSpec): Promise<number> {
  return (await readPostmaster(engine.storage.dataDirectory(spec.timeline)))!.pid;
}

async function groupOf(pid: number): Promise<string> {
  const own = /^0::(.*)$/m.exec(await readFile(`/proc/${pid}/cgroup`, 'utf8'))![1]!;
  const mount = /^\S+ \S+ \S+ \/ (\S+) .* - cgroup2 /m.exec(await readFile('/proc/self/mountinfo', 'utf8'))![1]!;
  return path.join(mount, own);
}

const limit = async (group: string, name: string) => (await readFile(path.join(group, name), 'utf8')).trim();

async function membersOf(group: string): Promise<number[]> {
  return (await limit(group, 'cgroup.procs')).split('\n').map(Number);
}

async function children(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.trim().split(' ').map(Number);
}

describe('hard', () => {
  test('all of a compute is in its group, which grows under load, shrinks, and goes with it', async () => {
    const supervisor = await supervisorWith('hard');
    const { spec, address, pid, group } = await started(supervisor, { minCu: 0.25, maxCu: 1 });
    expect(path.basename(group)).toBe(spec.endpointId);
    expect(await membersOf(group)).toEqual(expect.arrayContaining([pid, ...(await children(pid))]));
    await waitFor('its first limits', async () => (await limit(group, 'cpu.max')) === '25000 100000', WITHIN);
    expect(await limit(group, 'memory.high')).toBe(String(2 ** 30));
    expect(await limit(group, 'memory.max')).toBe(String(2 ** 32));

    const client = await connectAs(address, 'alice');
    const { rows } = await client.query('select pg_backend_pid() as pid');
    expect(await membersOf(group)).toContain((rows[0] as { pid: number }).pid);
    const load = client.query('select count(*) from generate_series(1, 4000000) a').catch((error: unknown) => error);
    await waitFor('more processors', async () => (await limit(group, 'cpu.max')) === '100000 100000', WITHIN);
    expect(supervisor.sizes().get(spec.endpointId)).toBe(1);
    expect(await limit(group, 'memory.high')).toBe(String(2 ** 32));
    expect(await load).not.toBeInstanceOf(Error);
    await client.end();
    await waitFor('fewer processors', async () => (await limit(group, 'cpu.max')) === '25000 100000', {
      timeoutMs: 300_000,
    });

    await supervisor.suspend(spec.endpointId);
    await expect(access(group)).rejects.toThrow('ENOENT');
    expect(problems).toEqual([]);
  }, 500_000);

  test('new bounds count at once', async () => {
    const supervisor = await supervisorWith('hard');
    const { spec, pid, group } = await started(supervisor, { minCu: 0.5, maxCu: 2 });
    await supervisor.start({ ...spec, minCu: 1 }, []);
    expect(await pidOf(spec)).toBe(pid);
    expect(await limit(group, 'cpu.max')).toBe('100000 100000');
    await supervisor.suspend(spec.endpointId);
  });

  test('a compute that outlives Ballast keeps its group; another mode takes its limits away', async () => {
    const first = await supervisorWith('hard');
    const { spec, pid, group } = await started(first, { minCu: 0.25, maxCu: 0.5 });
    await waitFor('its first limits', async () => (await limit(group, 'cpu.max')) === '25000 100000', WITHIN);
    const second = await supervisorWith('hard');
    expect(await second.adopt()).toContain(spec.endpointId);
    expect(await groupOf(pid)).toBe(group);
    await waitFor('the largest size', async () => (await limit(group, 'cpu.max')) === '50000 100000', WITHIN);
    const third = await supervisorWith('off');
    expect(await third.adopt()).toContain(spec.endpointId);
    expect(await limit(group, 'cpu.max')).toBe('max 100000');
    expect(await limit(group, 'memory.max')).toBe('max');
    await third.suspend(spec.endpointId);
    await expect(access(group)).rejects.toThrow('ENOENT');
  });
});

test('what was made for a data directory goes when its Ballast stops', async () => {
  const place = await findCgroups(await thisMachine());
  const groups = async () => (await readdir(place.available ? place.parent : '/nonexistent')).filter(isComputesGroup);
  const before = await groups();
  const { limits } = await openComputeLimits({ asked: 'hard', dataDirectory: '/another', logger: silentLogger() });
  const one = await limits.open('ep-a');
  expect((await groups()).length).toBe(before.length + 1);
  await one!.remove();
  await limits.close();
  expect(await groups()).toEqual(before);
});

const isComputesGroup = (name: string) => /^ballast-[0-9a-f]{8}$/.test(name);

test('shares: a weight, and no limit', async () => {
  const supervisor = await supervisorWith('shares');
  const { spec, group } = await started(supervisor, { minCu: 0.5, maxCu: 4 });
  await waitFor('its first weight', async () => (await limit(group, 'cpu.weight')) === '50', WITHIN);
  expect(await limit(group, 'cpu.max')).toBe('max 100000');
  expect(await limit(group, 'memory.high')).toBe('max');
  await supervisor.suspend(spec.endpointId);
});
