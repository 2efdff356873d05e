/**
 * What keeps a compute awake: the command, the endpoint's log and the suspend itself agree, for each reason there is.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { neon, neonConfig, Pool } from '@neondatabase/serverless';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { connect, failureOf, query } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

const TIMEOUT_SECONDS = 3;
const LOGICAL = { enable_logical_replication: true };
const PATIENT = { timeoutMs: 90_000, intervalMs: 100 };

let ballast: Ballast;
let place: Place;

interface Why {
  endpointId: string;
  awake: boolean;
  keepers?: {
    kind: string;
    state?: string;
    query?: string;
    slot?: string;
    connection?: { id: string; kind: string; applicationName?: string };
  }[];
  idleSessions?: { state?: string; connection?: { id: string } }[];
  suspendInMs?: number;
}

const run = (...args: string[]) => {
  const { status, stdout, stderr } = ballast.command(['why-awake', ...args]);
  return { code: status, stdout, stderr };
};
const why = (name = place.endpointId): Why => {
  const { code, stdout, stderr } = run(name, '--json');
  if (code !== 0) throw new Error(`why-awake ended with ${code}: ${stderr}`);
  return (JSON.parse(stdout) as Why[])[0]!;
};
const log = () => readFile(path.join(ballast.dataDir, 'log', 'computes', `${place.endpointId}.log`), 'utf8');
/** Since that moment; an earlier one proves nothing. */
const nextLine = async (from: number, wanted: RegExp) =>
  waitFor(`the log to say ${wanted}`, async () => wanted.exec((await log()).slice(from))?.[0], PATIENT);
const asleep = () =>
  waitFor('the compute to sleep', async () => (await ballast.api.endpointState(place)) === 'idle', PATIENT);

const open: pg.Client[] = [];
async function session(options: pg.ClientConfig = {}): Promise<pg.Client> {
  const client = await connect(ballast.uri(place), options);
  open.push(client);
  return client;
}

beforeAll(async () => {
  ballast = await Ballast.boot({
    flags: ['--default-suspend-timeout', String(TIMEOUT_SECONDS), '--greeting', 'welcome'],
  });
  place = await ballast.api.createProject({ name: 'awake', settings: LOGICAL });
  neonConfig.fetchEndpoint = () => `http://127.0.0.1:${ballast.pgPort}/sql`;
  neonConfig.wsProxy = () => `127.0.0.1:${ballast.pgPort}/v2?address=${place.endpointId}.localhost:5432`;
  neonConfig.useSecureWebSocket = false;
  neonConfig.webSocketConstructor ??= (await import('ws')).WebSocket;
}, 150_000);

afterAll(async () => {
  for (const client of open) await client.end().catch(() => undefined);
  await ballast?.destroy();
});

test('idle sessions keep nothing awake, and end as Postgres ends them', async () => {
  const client = await session({ application_name: 'idler' });
  const gone = new Promise<{ code?: string; message: string }>((resolve) => client.on('error', resolve));
  await client.query('select 1');
  const from = (await log()).length;
  await asleep();
  expect(await gone).toMatchObject({
    code: '57P01',
    message: 'terminating connection due to administrator command',
  });
  await nextLine(from, /suspending: nothing has kept the compute awake for 3 s/);
  await nextLine(from, /ends: a session that is idle, .*application idler, direct connection [0-9a-f]{12} from /);
  expect(why()).toMatchObject({ endpointId: place.endpointId, awake: false });
  expect(run(place.projectId).stdout).toContain(`${place.endpointId} (branch main of project awake, `);
});

test('an idle transaction does, until it ends', async () => {
  const client = new pg.Client({ connectionString: ballast.uri(place), application_name: 'forgetful' });
  client.on('error', () => undefined);
  open.push(client);
  const greeting = new Promise<string | undefined>((resolve) => client.on('notice', ({ message }) => resolve(message)));
  await client.connect();
  await client.query('begin');
  await client.query(`select 'secret'`);
  const from = (await log()).length;
  const keeper = why().keepers!.find(({ kind }) => kind === 'session');
  expect(keeper).toMatchObject({
    kind: 'session',
    state: 'idle in transaction',
    query: 'select',
    connection: { kind: 'direct', applicationName: 'forgetful' },
  });
  expect(await greeting).toBe(`welcome, session_id: ${keeper!.connection!.id}`);
  const told = await nextLine(from, /because of: a session that is idle in transaction.*/);
  expect(told).toContain(`connection ${keeper!.connection!.id} `);
  expect(told).not.toContain('secret');
  expect(await ballast.api.endpointState(place)).toBe('active');
  expect(run(place.endpointId).stdout).toMatch(/kept awake by\n +a session that is idle in transaction/);
  await client.query('commit');
  await asleep();
});

test('a running query does, however it came', async () => {
  const sleep = 'select pg_sleep(600)';
  const pooled = { ...place, endpointId: `${place.endpointId}-pooler` };
  const serverless = `postgresql://${place.role}:${place.password}@${place.endpointId}.localhost/${place.database}`;
  const pool = new Pool({ connectionString: serverless });
  const from = (await log()).length;
  const ended = Promise.all([
    failureOf(() => query(ballast.uri(place), sleep)),
    failureOf(() => query(ballast.uri(pooled), sleep)),
    failureOf(() => neon(serverless).query(sleep)),
    failureOf(() => pool.query(sleep)),
  ]);
  const kinds = ['direct', 'http', 'pooled', 'websocket'];
  const keepers = await waitFor(
    'the queries to be seen',
    async () => {
      const seen = why().keepers?.filter((one) => one.query === 'select pg_sleep' && one.state === 'active');
      return seen?.length === kinds.length && seen;
    },
    PATIENT,
  );
  expect(new Set(keepers.map(({ connection }) => connection?.kind))).toEqual(new Set(kinds));
  for (const { connection } of keepers) {
    const { kind, id } = connection!;
    await nextLine(from, new RegExp(`query "select pg_sleep ...".*${kind} connection ${id} from `));
  }
  expect(await ballast.api.endpointState(place)).toBe('active');
  await query(ballast.uri(place), `select pg_cancel_backend(pid) from pg_stat_activity where query = '${sleep}'`);
  expect((await ended).map((failure) => failure?.code)).toEqual(kinds.map(() => '57014'));
  await pool.end();
  await asleep();
});

test('a replication slot that nobody reads does not; the walsender and the subscription that reads it do', async () => {
  await query(ballast.uri(place), `select pg_create_logical_replication_slot('feed', 'pgoutput')`);
  await query(ballast.uri(place), 'create publication p');
  await asleep();
  const subscriber = await ballast.api.createProject({ name: 'subscriber', settings: LOGICAL });
  const from = (await log()).length;
  const connection = `host=127.0.0.1 port=${ballast.pgPort} user=${place.role} password=${place.password} dbname=${place.database} options='endpoint=${place.endpointId}'`;
  await query(
    ballast.uri(subscriber),
    `create subscription s connection '${connection.replaceAll("'", "''")}' publication p with (create_slot = false, slot_name = 'feed')`,
  );
  await nextLine(from, /because of: a walsender of replication slot feed/);
  const walsender = why().keepers!.find(({ kind }) => kind === 'walsender');
  expect(walsender).toMatchObject({ slot: 'feed', connection: { kind: 'direct', applicationName: 's' } });
  expect(why(subscriber.projectId).keepers).toContainEqual(expect.objectContaining({ kind: 'subscription' }));
  for (const one of [place, subscriber]) expect(await ballast.api.endpointState(one)).toBe('active');
  await query(ballast.uri(subscriber), 'alter subscription s disable');
  await asleep();
});

test('an endpoint with time left says how much; one that never suspends says so; an unknown name is an error', async () => {
  const setTimeout = (seconds: number) =>
    ballast.api.callAndSettle('PATCH', ballast.api.endpointPath(place), {
      endpoint: { suspend_timeout_seconds: seconds },
    });
  await setTimeout(600);
  await query(ballast.uri(place), 'select 1');
  // An autovacuum worker may be there for a moment.
  const left = await waitFor(
    'nothing to keep it awake',
    async () => {
      const now = why();
      return now.suspendInMs !== undefined && now;
    },
    PATIENT,
  );
  expect(left.keepers).toEqual([]);
  expect(left.suspendInMs).toBeGreaterThan(0);
  expect(left.suspendInMs).toBeLessThanOrEqual(600_000);
  expect(run(place.endpointId).stdout).toMatch(/nothing keeps it awake: idle for \d+ s, suspends in \d+ min/);
  await setTimeout(-1);
  const from = (await log()).length;
  await nextLine(from, /because of: suspend_timeout_seconds is -1/);
  expect(why().keepers).toContainEqual({ kind: 'never' });
  expect(run().stdout).toContain(place.endpointId);
  expect(run('nobody')).toMatchObject({ code: 1, stderr: expect.stringContaining('nobody') });
  await ballast.api.suspend(place);
  await nextLine(from, /suspending: by an operation/);
});
