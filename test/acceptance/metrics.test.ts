/**
 * `GET /metrics` of the built product: who may read it, and that its figures are those of traffic that is known.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { neon, neonConfig, Pool } from '@neondatabase/serverless';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { scrape, type Scrape } from '../support/metrics.ts';
import { connect, failureOf, query, withClient } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

const PATIENT = { timeoutMs: 90_000, intervalMs: 50 };
const PHASES = ['queue', 'claim', 'prepare', 'postgres', 'configure'];

let ballast: Ballast;
let place: Place;
let pooled: string;
let serverless: string;

const read = () => scrape(ballast.apiPort, ballast.api.apiKey);
const get = (headers: Record<string, string>) => fetch(`http://localhost:${ballast.apiPort}/metrics`, { headers });
/** What the work added to a figure, once what it opened is closed again. */
async function added(work: () => Promise<unknown>) {
  const before = await settled();
  await work();
  const after = await settled();
  return (name: string, labels?: Record<string, string>) => after.value(name, labels) - before.value(name, labels);
}
const settled = (): Promise<Scrape> =>
  waitFor(
    'clients to be gone',
    async () => {
      const now = await read();
      return now.value('ballast_connections') === 0 && now;
    },
    PATIENT,
  );

beforeAll(async () => {
  ballast = await Ballast.boot();
  place = await ballast.api.createProject({ name: 'measured' });
  pooled = ballast.uri({ ...place, endpointId: `${place.endpointId}-pooler` });
  serverless = `postgresql://${place.role}:${place.password}@${place.endpointId}.localhost/${place.database}`;
  neonConfig.fetchEndpoint = () => `http://127.0.0.1:${ballast.pgPort}/sql`;
  neonConfig.wsProxy = () => `127.0.0.1:${ballast.pgPort}/v2?address=${place.endpointId}.localhost:5432`;
  neonConfig.useSecureWebSocket = false;
  neonConfig.webSocketConstructor ??= (await import('ws')).WebSocket;
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

test('is for those who have a personal key', async () => {
  expect((await get({})).status).toBe(401);
  expect((await get({ authorization: 'Bearer napi_wrong' })).status).toBe(401);
  const project = await ballast.api.createProject({ name: 'other' });
  const key = await ballast.api.call('POST', `/organizations/${await organization()}/api_keys`, {
    key_name: 'of a project',
    project_id: project.projectId,
  });
  expect((await get({ authorization: `Bearer ${key.key}` })).status).toBe(404);
  const answer = await get({ authorization: `Bearer ${ballast.api.apiKey}` });
  expect(answer.status).toBe(200);
  expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
});

async function organization(): Promise<string> {
  const { organizations } = await ballast.api.call('GET', '/users/me/organizations');
  return organizations[0].id;
}

test('names no role, database, password or query', async () => {
  await query(ballast.uri(place), `select 'a literal'`);
  const text = await (await get({ authorization: `Bearer ${ballast.api.apiKey}` })).text();
  for (const secret of [place.role, place.database, place.password, ballast.api.apiKey, 'a literal']) {
    expect(text).not.toContain(secret);
  }
});

describe('counts', () => {
  test('a direct connection while it is open, and its bytes', async () => {
    const labels = { endpoint: place.endpointId };
    const difference = await added(async () => {
      const client = await connect(ballast.uri(place));
      expect((await read()).value('ballast_connections', { ...labels, kind: 'direct' })).toBe(1);
      expect((await read()).value('ballast_compute_units', labels)).toBe(0.25);
      await client.query(`select repeat('x', 100000)`);
      await client.end();
    });
    expect(difference('ballast_connections_entered_total', { kind: 'direct' })).toBe(1);
    expect(difference('ballast_connections_accepted_total')).toBe(1);
    expect(difference('ballast_sent_bytes_total', labels)).toBeGreaterThan(100_000);
    expect(difference('ballast_sent_bytes_total', labels)).toBeLessThan(101_000);
    // Query and Terminate, as the protocol has them.
    expect(difference('ballast_received_bytes_total', labels)).toBe(`select repeat('x', 100000)`.length + 6 + 5);
    expect(difference('ballast_queries_total', labels)).toBe(0);
  });

  test('every query of a pooled client, simple or extended, that fails or not', async () => {
    const labels = { endpoint: place.endpointId };
    const difference = await added(() =>
      withClient(pooled, async (client) => {
        for (let n = 0; n < 3; n += 1) await client.query('select 1');
        for (let n = 0; n < 3; n += 1) await client.query({ name: 'prepared', text: 'select $1::int', values: [n] });
        await failureOf(() => client.query('select 1/0'));
        expect((await read()).value('ballast_pool_clients')).toBe(1);
      }),
    );
    expect(difference('ballast_queries_total', labels)).toBe(7);
    expect(difference('ballast_pool_lends_total', labels)).toBe(7);
    expect(difference('ballast_connections_entered_total', { kind: 'pooled' })).toBe(1);
  });

  test('every query over HTTP, those of a batch one by one', async () => {
    const labels = { endpoint: place.endpointId };
    const difference = await added(async () => {
      const sql = neon(serverless);
      await sql`select 1`;
      await sql.transaction([sql`select 1`, sql`select 2`, sql`select 3`]);
    });
    expect(difference('ballast_queries_total', labels)).toBe(4);
    expect(difference('ballast_connections_entered_total', { kind: 'http' })).toBe(2);
    expect(difference('ballast_received_bytes_total', labels)).toBeGreaterThan(0);
    expect(difference('ballast_sent_bytes_total', labels)).toBeGreaterThan(0);
  });

  test('a WebSocket', async () => {
    const difference = await added(async () => {
      const pool = new Pool({ connectionString: serverless });
      await pool.query('select 1');
      await pool.end();
    });
    expect(difference('ballast_connections_entered_total', { kind: 'websocket' })).toBe(1);
  });

  test('who is turned away, by reason', async () => {
    const difference = await added(async () => {
      const wrong = { password: 'wrong' };
      await failureOf(() => query(ballast.uri({ ...place, ...wrong }), 'select 1'));
      await failureOf(() => query(ballast.uri({ ...place, endpointId: 'ep-nobody-12345678' }), 'select 1'));
      await failureOf(() => neon(serverless.replace(place.password, 'wrong')).query('select 1'));
    });
    expect(difference('ballast_connections_refused_total', { reason: 'password' })).toBe(2);
    expect(difference('ballast_connections_refused_total')).toBe(3);
    expect(difference('ballast_login_failures_total')).toBe(2);
    expect(difference('ballast_connections_entered_total')).toBe(0);
  });
});

test('a wake is told phase by phase, in the figures and in the log', async () => {
  await ballast.api.suspend(place);
  const linesBefore = (await startsInLog()).length;
  const before = await settled();
  await query(ballast.uri(place), 'select 1');
  const ended = { action: 'start_compute', result: 'finished' };
  // The client is in before the operation is over.
  const after = await waitFor(
    'the end of the operation',
    async () => {
      const now = await settled();
      const more = now.value('ballast_operations_total', ended) > before.value('ballast_operations_total', ended);
      return more && now;
    },
    PATIENT,
  );
  const more = (name: string, labels?: Record<string, string>) =>
    after.value(name, labels) - before.value(name, labels);
  expect(after.types.get('ballast_wake_phase_seconds')).toBe('histogram');
  for (const phase of [...PHASES, 'login']) expect(more('ballast_wake_phase_seconds_count', { phase })).toBe(1);
  expect(more('ballast_wake_phase_seconds_sum', { phase: 'postgres' })).toBeGreaterThan(0);
  expect(more('ballast_wake_wait_seconds_count')).toBe(1);
  expect(more('ballast_computes_running')).toBe(1);
  const lines = await waitFor(
    'the start in the log',
    async () => {
      const now = await startsInLog();
      return now.length > linesBefore && now;
    },
    PATIENT,
  );
  expect(lines.at(-1)).toMatchObject({ level: 30, action: 'start_compute' });
  expect(Object.keys(lines.at(-1)!.phases)).toEqual(PHASES);
});

interface StartInLog {
  endpoint: string;
  phases: Record<string, number>;
}

async function startsInLog(): Promise<StartInLog[]> {
  const log = await readFile(path.join(ballast.dataDir, 'log', 'ballast.log'), 'utf8');
  const lines = log.split('\n').filter((line) => line.includes('"phases"') && line.endsWith('}'));
  return lines.map((line) => JSON.parse(line) as StartInLog).filter(({ endpoint }) => endpoint === place.endpointId);
}

test('the series of a deleted endpoint go', async () => {
  const present = (now: Scrape) => now.samples.some(({ labels }) => labels['endpoint'] === place.endpointId);
  expect(present(await read())).toBe(true);
  await ballast.api.callAndSettle('DELETE', ballast.api.endpointPath(place));
  expect(present(await read())).toBe(false);
});
