/**
 * What a running Postgres tells of those who keep it awake.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import { waitFor } from '../../test/support/wait.ts';
import type { ComputeAddress, ComputeSpec } from './types.ts';

let engine: TestEngine;
let majors: readonly number[];

beforeAll(async () => {
  majors = await testMajors();
  engine = await openTestEngine();
});
afterAll(() => engine.close());

async function started(name: string, major: number, overrides: object = {}) {
  const spec: ComputeSpec = engine.spec(`ep-${name}-${major}`, major, overrides);
  await engine.storage.create(spec.timeline, major);
  const address: ComputeAddress = await engine.supervisor.start(spec, [
    { kind: 'create_role', name: 'alice', verifier: await testVerifier(), noLogin: false },
    { kind: 'create_database', name: 'shop', owner: 'alice' },
  ]);
  const ask = async () => (await engine.supervisor.activity(spec.endpointId, { fresh: true }))!;
  return { address, ask };
}

test('who is connected is named on every major, and nothing that they say is told', async () => {
  for (const major of majors) {
    const { address, ask } = await started('named', major);
    const client = await connectAs(address, 'alice', 'shop');
    const answer = await client.query<{ pid: number }>(`select pg_backend_pid() as pid, 'secret'`);
    const { pid } = answer.rows[0]!;
    // Other processes come and go by themselves.
    const ofClient = async () => (await ask()).processes.find((process) => process.pid === pid);
    const idle = await ofClient();
    expect(idle).toMatchObject({ kind: 'session', keepsAwake: false, role: 'alice', database: 'shop', state: 'idle' });
    expect(idle!.query).toBe('select pg_backend_pid');
    await client.query('begin');
    expect(await ofClient()).toMatchObject({ keepsAwake: true, state: 'idle in transaction', query: 'begin' });
    const seen = await ask();
    expect(seen).toMatchObject({ busy: true, idleMs: 0 });
    expect(seen.busyCount).toBeGreaterThanOrEqual(1);
    expect(JSON.stringify(seen)).not.toContain('secret');
    await client.end();
  }
});

test('an autovacuum worker keeps a compute awake, with nobody connected', async () => {
  const { address, ask } = await started('vacuumed', majors.at(-1)!, {
    pgSettings: {
      autovacuum_naptime: '1',
      // No catalog changes that much.
      autovacuum_vacuum_threshold: '50000',
      autovacuum_vacuum_scale_factor: '0',
      // So slow that it is there for as long as it takes to be seen.
      autovacuum_vacuum_cost_delay: '100',
      autovacuum_vacuum_cost_limit: '1',
    },
  });
  const client = await connectAs(address, 'alice', 'shop');
  await client.query('create table dead (n int)');
  await client.query('insert into dead select generate_series(1, 100000)');
  await client.query('delete from dead');
  await client.end();
  const { seen, worker } = await waitFor(
    'an autovacuum worker',
    async () => {
      const now = await ask();
      const found = now.processes.find(({ query }) => query?.includes('public.dead'));
      return found && { seen: now, worker: found };
    },
    { timeoutMs: 100_000 },
  );
  expect(worker).toMatchObject({ kind: 'autovacuum', keepsAwake: true, database: 'shop' });
  expect(worker.query).toMatch(/^autovacuum: /);
  expect(seen).toMatchObject({ busy: true, idleMs: 0 });
});
