/**
 * The catalog is lost and comes back from the pool: with all names, hosts and passwords from the projects' descriptions,
 * and, should those be lost as well, with the data at least. And corruption does not stay hidden.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { open, readFile, readdir, realpath, rm, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast, REPOSITORY, temporaryDirectory } from '../support/ballast.ts';
import { query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;
let main: Place;
let dev: Place;

beforeAll(async () => {
  ballast = await Ballast.boot();
  main = await ballast.api.createProject({ name: 'precious' });
  await query(main.uri, 'create table t as select generate_series(1, 50000) as n; create index t_n on t (n)');
  dev = await ballast.api.createBranch(main, { name: 'dev' });
  await query(dev.uri, 'create table of_dev as select 1 as n');
  await ballast.api.callAndSettle('POST', `/projects/${main.projectId}/branches/${main.branchId}/roles`, {
    role: { name: 'reader' },
  });
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

/** All that clients can see of a project, without what may differ after a restart. */
async function seen(): Promise<unknown> {
  const at = `/projects/${main.projectId}`;
  const { project } = await ballast.api.call('GET', at);
  const { branches } = await ballast.api.call('GET', `${at}/branches?sort_by=name`);
  const { endpoints } = await ballast.api.call('GET', `${at}/endpoints`);
  const { roles } = await ballast.api.call('GET', `${at}/branches/${main.branchId}/roles`);
  const { password } = await ballast.api.call(
    'GET',
    `${at}/branches/${main.branchId}/roles/${main.role}/reveal_password`,
  );
  return {
    project: [
      project.id,
      project.name,
      project.org_id,
      project.owner_id,
      project.pg_version,
      project.settings,
      project.created_at,
    ],
    branches: branches.map((each: Record<string, unknown>) => [
      each['id'],
      each['name'],
      each['parent_id'],
      each['default'],
      each['created_at'],
    ]),
    endpoints: endpoints.map((each: Record<string, unknown>) => [each['id'], each['host'], each['branch_id']]),
    roles: roles.map((each: Record<string, unknown>) => each['name']),
    password: createHash('sha256').update(password).digest('hex'),
  };
}

const descriptionFile = async ({ projectId } = main) =>
  path.join(await realpath(ballast.pool), projectId, 'project.json');

/** Its server goes on, without its files. */
async function loseCatalog(): Promise<void> {
  await ballast.kill9();
  const catalog = await realpath(path.join(ballast.dataDir, 'catalog'));
  for (const name of await readdir(catalog)) await rm(path.join(catalog, name), { recursive: true });
}

const rebuild = (...flags: string[]) => ballast.command(['catalog', 'rebuild', '--yes', ...flags]);

test('a lost catalog comes back from the pool, whole', async () => {
  const before = await seen();
  await waitFor('the description to be up to date', async () => {
    const text = await readFile(await descriptionFile(), 'utf8').catch(() => '');
    return text.includes('reader') && text.includes(dev.endpointId) && !text.includes('"creating"');
  });
  const text = await readFile(await descriptionFile(), 'utf8');
  expect(text).not.toContain(main.password);
  expect(((await stat(await descriptionFile())).mode & 0o777).toString(8)).toBe('600');

  const refused = rebuild();
  expect(refused.status).toBe(1);
  expect(refused.stderr).toContain('already runs');

  await loseCatalog();
  const doctor = ballast.command(['doctor']);
  expect(doctor.stdout).toMatch(/^fail +catalog +the catalog is lost/m);
  // A start would give the numbers of what is lost to what is new.
  const started = ballast.start();
  await expect(started).rejects.toThrow('catalog rebuild');
  const elsewhere = await temporaryDirectory(tmpdir());
  const wrongPool = ballast.command(['catalog', 'rebuild', '--yes', '--pool', elsewhere], { BALLAST_POOL: elsewhere });
  await rm(elsewhere, { recursive: true });
  expect(wrongPool.status).toBe(1);
  expect(wrongPool.stderr).toContain('there is nothing in the pool');

  const rebuilt = rebuild();
  expect(rebuilt.stderr).toBe('');
  expect(rebuilt.status).toBe(0);
  expect(rebuilt.stdout).toContain('precious');

  await ballast.start();
  expect(await seen()).toEqual(before);
  expect(Number(await scalar(main.uri, 'select count(*)::int from t'))).toBe(50_000);
  expect(Number(await scalar(dev.uri, 'select n from of_dev'))).toBe(1);
  // And life goes on: new things do not collide with what came back.
  const later = await ballast.api.createProject({ name: 'later' });
  expect(Number(await scalar(later.uri, 'select 1'))).toBe(1);
  const grandchild = await ballast.api.createBranch(dev, { name: 'grandchild' });
  expect(Number(await scalar(grandchild.uri, 'select n from of_dev'))).toBe(1);
});

test('a catalog that is there is not overwritten by accident', async () => {
  await ballast.stop();
  const refused = rebuild();
  expect(refused.status).toBe(1);
  expect(refused.stderr).toContain('--force');
  // Nor is one that only cannot be opened just now.
  const catalog = path.join(await realpath(ballast.dataDir), 'catalog');
  await writeFile(path.join(catalog, 'pgdata/postgresql.auto.conf'), 'no_such_setting = 1\n');
  const names = await readdir(catalog);
  const unopened = rebuild();
  expect(unopened.status).toBe(1);
  expect(unopened.stderr).toContain('cannot be opened');
  expect(await readdir(catalog)).toEqual(names);
  const forced = rebuild('--force');
  expect(forced.status).toBe(0);
  await ballast.start();
  expect(Number(await scalar(main.uri, 'select count(*)::int from t'))).toBe(50_000);
});

test('without a description the data is back under other names', async () => {
  await loseCatalog();
  await rm(await descriptionFile());
  const rebuilt = rebuild();
  expect(rebuilt.status).toBe(1);
  expect(rebuilt.stderr).toContain(`project ${main.projectId} has no description`);
  await ballast.start();
  const at = `/projects/${main.projectId}`;
  await ballast.api.idle(main.projectId);
  const { branches } = await ballast.api.call('GET', `${at}/branches`);
  const byId = new Map(branches.map((each: { id: string }) => [each.id, each]));
  expect(byId.get(main.branchId)).toMatchObject({ name: 'main', default: true });
  expect(byId.get(dev.branchId)).toMatchObject({ name: `recovered-${dev.branchId}`, parent_id: main.branchId });
  const { endpoints } = await ballast.api.call('GET', `${at}/branches/${main.branchId}/endpoints`);
  // The roles and their passwords are those of the data; only the host is another.
  const uri = main.uri.replaceAll(main.endpointId, endpoints[0].id);
  expect(Number(await scalar(uri, 'select count(*)::int from t'))).toBe(50_000);
});

/** Puts bytes into the second page of a file; returns what was there. */
async function swap(file: string, bytes: Buffer): Promise<Buffer> {
  const handle = await open(file, 'r+');
  const before = Buffer.alloc(bytes.length);
  await handle.read(before, 0, before.length, 8192 + 5000);
  await handle.write(bytes, 0, bytes.length, 8192 + 5000);
  await handle.close();
  return before;
}

test('verify finds what is broken, and nothing where nothing is', async () => {
  const place = await ballast.api.createProject({ name: 'checked' });
  await query(
    place.uri,
    'create table t as select generate_series(1, 20000) as n; create index t_n on t (n); checkpoint',
  ).catch(() => undefined);
  await query(place.uri, 'create table if not exists t as select generate_series(1, 20000) as n');
  await query(place.uri, 'create index if not exists t_n on t (n)');
  const file = await scalar(place.uri, `select pg_relation_filepath('t')`);
  const indexFile = await scalar(place.uri, `select pg_relation_filepath('t_n')`);
  const sleeping = await ballast.api.createBranch(place, { name: 'sleeping' });
  await ballast.api.suspend(sleeping);
  // While it runs, computes included, it is done by the running one.
  const running = ballast.command(['verify', place.projectId]);
  expect(running.stderr).toBe('');
  expect(running.status).toBe(0);
  expect(running.stdout.match(/sound/g)).toHaveLength(2);
  expect(await ballast.api.endpointState(place)).toBe('active');
  expect(await timelinesOf(place)).toEqual([place.branchId, sleeping.branchId].toSorted());

  // What a crash leaves running is no obstacle.
  await waitFor('names to be known', async () =>
    (await readFile(await descriptionFile(place), 'utf8').catch(() => '')).includes(sleeping.branchId),
  );
  await ballast.kill9();
  const crashed = ballast.command(['verify', place.projectId, 'main']);
  expect(crashed.stderr).toBe('');
  expect(crashed.status).toBe(0);
  await ballast.start();
  await ballast.stop();

  const sound = ballast.command(['verify', place.projectId]);
  expect(sound.stderr).toBe('');
  expect(sound.status).toBe(0);
  expect(sound.stdout).toMatch(/sound/);

  const pgdata = path.join(await realpath(ballast.pool), place.projectId, place.branchId, 'pgdata');
  const breakPage = async (of: unknown) => swap(path.join(pgdata, String(of)), Buffer.from('broken'));
  const whole = await breakPage(file);
  const broken = ballast.command(['verify', place.projectId, 'main']);
  expect(broken.status).toBe(1);
  expect(broken.stderr).toMatch(/database neondb, public\.t: .*(invalid page|checksum)/);

  await swap(path.join(pgdata, String(file)), whole);
  await breakPage(indexFile);
  const brokenIndex = ballast.command(['verify', place.projectId, 'main']);
  expect(brokenIndex.status).toBe(1);
  expect(brokenIndex.stderr).toMatch(/database neondb, public\.t_n: .*(invalid page|checksum)/);
  expect(brokenIndex.stderr).not.toContain('public.t:');
  // What was verified is as it was: nothing of the copies is left.
  expect(await timelinesOf(place)).toEqual([place.branchId, sleeping.branchId].toSorted());

  // Killed in the middle, it leaves a copy that runs; the next start takes both away.
  const killed = spawn(process.execPath, [path.join(REPOSITORY, 'bin/ballast.mjs'), 'verify', place.projectId], {
    env: { ...ballast.environment(), BALLAST_DATA_DIR: ballast.dataDir, BALLAST_POOL: ballast.pool },
    stdio: 'ignore',
  });
  await waitFor('a copy that runs', async () =>
    (await ballast.postgresProcesses()).some(({ cwd }) => cwd.includes('/verify-')),
  );
  killed.kill('SIGKILL');
  expect((await timelinesOf(place)).length).toBe(3);
  await ballast.start();
  expect(await timelinesOf(place)).toEqual([place.branchId, sleeping.branchId].toSorted());
  expect((await ballast.postgresProcesses()).filter(({ cwd }) => cwd.includes('/verify-'))).toEqual([]);
});

test('of a running Ballast only its own user may ask', async () => {
  const socketPath = path.join(await realpath(path.join(ballast.dataDir, 'run')), 'admin');
  expect(((await stat(socketPath)).mode & 0o777).toString(8)).toBe('600');
  expect(((await stat(path.join(ballast.dataDir, 'secrets/admin'))).mode & 0o777).toString(8)).toBe('600');
  const status = await new Promise<number | undefined>((resolve, reject) => {
    const ask = request({ socketPath, path: '/verify', method: 'POST', headers: { authorization: 'Bearer guess' } });
    ask.once('response', (response) => resolve(response.resume().statusCode));
    ask.once('error', reject);
    ask.end();
  });
  expect(status).toBe(401);
});

async function timelinesOf({ projectId }: Place): Promise<string[]> {
  const names = await readdir(path.join(await realpath(ballast.pool), projectId));
  return names.filter((name) => !name.startsWith('project.json')).toSorted();
}
