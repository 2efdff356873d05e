/**
 * Starting and stopping: the second start finds everything as it was, Ctrl-C leaves nothing behind, a port that is taken
 * and a data directory that is in use are told by name, and the catalog may live on any other PostgreSQL.
 */
import { spawnSync } from 'node:child_process';
import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast, REPOSITORY } from '../support/ballast.ts';
import { freePort } from '../support/processes.ts';
import { query, scalar } from '../support/sql.ts';

let ballast: Ballast;
const others: Ballast[] = [];

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 150_000);

afterAll(async () => {
  for (const other of others) await other.destroy();
  await ballast?.destroy();
});

/** What the API says about a project, without what time changes by itself. */
async function portrait(place: Place): Promise<unknown> {
  const answers: unknown[] = [];
  for (const leaf of [
    '',
    '/branches',
    '/endpoints',
    `/branches/${place.branchId}/roles`,
    `/branches/${place.branchId}/databases`,
  ]) {
    answers.push(await ballast.api.call('GET', `/projects/${place.projectId}${leaf}`));
  }
  const volatile = new Set([
    'updated_at',
    'state_changed_at',
    'last_active',
    'started_at',
    'suspended_at',
    'compute_last_active_at',
    'logical_size',
    'current_state',
  ]);
  return JSON.parse(
    JSON.stringify(answers, (key, value) =>
      volatile.has(key) || /_(seconds|bytes|sec)$/.test(key) ? undefined : value,
    ),
  );
}

test('a second start finds projects, branches, roles, passwords, keys and data as they were', async () => {
  const place = await ballast.api.createProject({ name: 'steady' });
  await query(place.uri, 'create table t (n int); insert into t values (1)');
  const child = await ballast.api.createBranch(place, { name: 'child' });
  await query(child.uri, 'insert into t values (2)');
  await ballast.api.callAndSettle('POST', `/projects/${place.projectId}/branches/${place.branchId}/roles`, {
    role: { name: 'second' },
  });
  const second = await ballast.api.call('POST', '/api_keys', { key_name: 'second' });
  const before = await portrait(place);
  const key = await readFile(path.join(ballast.dataDir, 'api-key'), 'utf8');

  await ballast.stop();
  await ballast.start();

  expect(await readFile(path.join(ballast.dataDir, 'api-key'), 'utf8')).toBe(key);
  expect(await portrait(place)).toEqual(before);
  expect((await ballast.api.request('GET', '/projects', undefined, { key: second.key })).status).toBe(200);
  expect(await query(place.uri, 'select n from t order by n')).toEqual([{ n: 1 }]);
  expect(await query(child.uri, 'select n from t order by n')).toEqual([{ n: 1 }, { n: 2 }]);
});

test('SIGTERM stops it as cleanly, with sessions open', async () => {
  const place = await ballast.api.createProject({ name: 'interrupted' });
  const pending = query(place.uri, 'select pg_sleep(60)').catch((error: Error) => error);
  await query(place.uri, 'create table t (n int); insert into t values (1)');
  const exit = await ballast.signal('SIGTERM');
  expect(exit).toEqual({ code: 0, signal: null });
  expect(await pending).toBeInstanceOf(Error);
  await ballast.assertNothingLeft();
  await ballast.start();
  expect(await scalar(place.uri, 'select n from t')).toBe(1);
});

test('the API key file is for its owner only', async () => {
  const { mode } = await stat(path.join(ballast.dataDir, 'api-key'));
  expect(mode & 0o077).toBe(0);
});

test('no secret shows in a process list or in what start prints', async () => {
  const place = await ballast.api.createProject({ name: 'discreet' });
  const commands = (await ballast.processes()).map((fact) => fact.command).join('\n');
  for (const secret of [ballast.api.apiKey, place.password]) {
    expect(commands).not.toContain(secret);
    expect(ballast.output).not.toContain(secret);
  }
});

test.each([
  ['--api-port', 'api'],
  ['--pg-port', 'pg'],
] as const)('a taken port is told by its flag: %s', async (flag, which) => {
  const blocker = createServer();
  const port = await new Promise<number>((resolve) => {
    blocker.listen(0, '127.0.0.1', () => resolve((blocker.address() as { port: number }).port));
  });
  try {
    const other = await Ballast.prepare();
    others.push(other);
    const ports = {
      '--api-port': String(await freePort()),
      '--pg-port': String(await freePort()),
      [flag]: String(port),
    };
    const ran = spawnSync(
      process.execPath,
      [path.join(REPOSITORY, 'bin/ballast.mjs'), 'start', '--data-dir', other.dataDir, ...Object.entries(ports).flat()],
      { env: other.environment(), encoding: 'utf8', timeout: 60_000 },
    );
    expect(ran.status, which).toBe(1);
    expect(ran.stdout + ran.stderr).toContain(flag);
    await other.assertNothingLeft();
  } finally {
    blocker.close();
  }
});

test('a second Ballast on the same data directory is refused', async () => {
  const ran = spawnSync(
    process.execPath,
    [
      path.join(REPOSITORY, 'bin/ballast.mjs'),
      'start',
      '--data-dir',
      ballast.dataDir,
      '--pool',
      ballast.pool,
      '--api-port',
      String(await freePort()),
      '--pg-port',
      String(await freePort()),
    ],
    { env: ballast.environment(), encoding: 'utf8', timeout: 60_000 },
  );
  expect(ran.status).toBe(1);
  expect(ran.stdout + ran.stderr).toMatch(/already|in use|running/i);
  expect((await ballast.api.request('GET', '/projects')).status).toBe(200);
});

test('status, doctor and env speak about the running Ballast', () => {
  expect(ballast.command(['status'])).toMatchObject({
    status: 0,
    stdout: expect.stringContaining(String(ballast.apiPort)),
  });
  const doctor = ballast.command(['doctor']);
  expect([0, 1]).toContain(doctor.status);
  expect(doctor.stdout).toMatch(/copy-on-write|reflink|clone/i);
  const env = ballast.command(['env']);
  expect(env).toMatchObject({ status: 0, stdout: expect.stringContaining('NEON_API_HOST') });
  expect(env.stdout).toContain(ballast.baseUrl.replace('localhost', '').slice(7));
});

test('the catalog may be any PostgreSQL: here a database of another Ballast', async () => {
  const host = await ballast.api.createProject({ name: 'catalog host' });
  const other = await Ballast.prepare({ env: { BALLAST_CATALOG_URL: ballast.uri(host) } });
  others.push(other);
  await other.start();
  const place = await other.api.createProject({ name: 'elsewhere' });
  expect(await scalar(place.uri, 'select 1')).toBe(1);
  expect(await scalar(ballast.uri(host), 'select name from ballast.projects')).toBe('elsewhere');
  await other.stop();
  await other.start();
  expect(await scalar(place.uri, 'select 1')).toBe(1);
  await other.stop();
});
