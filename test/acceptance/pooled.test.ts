/**
 * Pooled hosts of the built product: a client that idles in the pool survives the sleep of its compute, and wakes it.
 */
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { hasPsql, libpqEnvironment, psql } from '../support/clients.ts';
import { scalar } from '../support/sql.ts';

let ballast: Ballast;
let place: Place;
let pooled: string;

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'pooled' });
  pooled = ballast.uri({ ...place, endpointId: `${place.endpointId}-pooler` });
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

test('the next query of an idle client wakes the compute, prepared statements and all', async () => {
  const client = new pg.Client({ connectionString: pooled });
  await client.connect();
  const ask = (n: number) => client.query({ name: 'ask', text: 'select $1::int + 1 as n', values: [n] });
  expect((await ask(1)).rows).toEqual([{ n: 2 }]);
  for (let round = 0; round < 2; round += 1) {
    await ballast.api.suspend(place);
    expect(await ballast.api.endpointState(place)).toBe('idle');
    expect((await ask(round)).rows).toEqual([{ n: round + 1 }]);
  }
  await client.end();
});

test('a hundred clients at once wake a sleeping compute and share its sessions', async () => {
  await ballast.api.suspend(place);
  const answers = await Promise.all(
    Array.from({ length: 100 }, async (_, n) => Number(await scalar(pooled, `select ${n} + pg_backend_pid() * 0`))),
  );
  expect(answers).toEqual(Array.from({ length: 100 }, (_, n) => n));
});

test.skipIf(!hasPsql).each(['require', 'disable'])(
  'psql with channel_binding=%s wakes a sleeping compute through the pooled host (skipped without psql)',
  async (binding) => {
    await ballast.api.suspend(place);
    expect(await ballast.api.endpointState(place)).toBe('idle');
    const tls = libpqEnvironment(ballast, { ...place, endpointId: `${place.endpointId}-pooler` });
    const env = { ...tls, PGCHANNELBINDING: binding };
    const answer = await psql({ env }, 'select current_user');
    expect(answer).toMatchObject({ code: 0, stdout: `${place.role}\n` });
  },
);
