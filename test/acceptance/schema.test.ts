/**
 * Schemas with unmodified clients: read now and in the past, asleep and awake, compared, and branches that begin with
 * nothing but the schema of another.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { neonApiClient, neonCli } from '../support/clients.ts';
import { query, scalar } from '../support/sql.ts';

let ballast: Ballast;
let main: Place;
/** When `main` had only `fruit`. */
let early: string;

const branchPath = (place: Pick<Place, 'projectId' | 'branchId'>) =>
  `/projects/${place.projectId}/branches/${place.branchId}`;
const schema = (place: Place, parameters: Record<string, string> = {}) =>
  ballast.api.call<{ sql: string }>(
    'GET',
    `${branchPath(place)}/schema?${new URLSearchParams({ db_name: 'neondb', ...parameters }).toString()}`,
  );
const compare = (place: Place, parameters: Record<string, string> = {}) =>
  ballast.api.call<{ diff: string }>(
    'GET',
    `${branchPath(place)}/compare_schema?${new URLSearchParams({ db_name: 'neondb', ...parameters }).toString()}`,
  );
const endpointStarts = async (place: Place) => {
  const { operations } = await ballast.api.call<{ operations: { action: string }[] }>(
    'GET',
    `/projects/${place.projectId}/operations?limit=1000`,
  );
  return operations.filter(({ action }) => action === 'start_compute').length;
};

beforeAll(async () => {
  ballast = await Ballast.boot();
  main = await ballast.api.createProject({ name: 'schemas' });
  await query(main.uri, 'create table fruit (id int primary key, name text not null)');
  await query(main.uri, `insert into fruit values (1, 'a row of data')`);
  // Times are compared by the second.
  await sleep(1_100);
  early = new Date().toISOString();
  await sleep(1_100);
  await query(main.uri, 'create table basket (fruit int references fruit, amount numeric(8,2))');
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

describe('of one branch', () => {
  test('as SQL and as a listing, in the words of the SDK', async () => {
    const { sql } = await schema(main);
    expect(sql).toMatch(/^--\n-- PostgreSQL database dump\n--\n/);
    expect(sql).toContain('CREATE TABLE public.basket (\n    fruit integer,\n    amount numeric(8,2)\n);');
    expect(sql).not.toContain('a row of data');
    const { data } = await neonApiClient(ballast).getProjectBranchSchema({
      projectId: main.projectId,
      branchId: main.branchId,
      db_name: 'neondb',
      format: 'json',
    } as never);
    expect(data).toEqual({
      json: {
        tables: [
          {
            schema: 'public',
            name: 'basket',
            columns: [
              { name: 'fruit', type: 'integer', nullable: true, generated: false },
              { name: 'amount', type: 'numeric(8,2)', nullable: true, generated: false },
            ],
            constraints: [
              {
                name: 'basket_fruit_fkey',
                type: 'foreign_key',
                columns: ['fruit'],
                referenced_table: { schema: 'public', table: 'fruit', columns: ['id'] },
              },
            ],
          },
          {
            schema: 'public',
            name: 'fruit',
            columns: [
              { name: 'id', type: 'integer', nullable: false, generated: false },
              { name: 'name', type: 'text', nullable: false, generated: false },
            ],
            constraints: [{ name: 'fruit_pkey', type: 'primary_key', columns: ['id'] }],
          },
        ],
      },
    });
  });

  test('as it was, without waking anything; asleep it is the same', async () => {
    const awake = await schema(main);
    const lsn = await scalar(main.uri, 'select pg_current_wal_insert_lsn()::text');
    await ballast.api.suspend(main);
    const starts = await endpointStarts(main);
    const then = await schema(main, { timestamp: early });
    expect(then.sql).toContain('CREATE TABLE public.fruit');
    expect(then.sql).not.toContain('basket');
    expect(await schema(main)).toEqual(awake);
    expect(await schema(main, { lsn: String(lsn) })).toEqual(awake);
    expect(await endpointStarts(main)).toBe(starts);
    expect(await ballast.api.endpointState(main)).toBe('idle');
  });

  test('refusals', async () => {
    const status = async (parameters: string) =>
      (await ballast.api.request('GET', `${branchPath(main)}/schema?${parameters}`)).status;
    expect(await status('')).toBe(400);
    expect(await status('db_name=nothing')).toBe(404);
    expect(await status('db_name=postgres')).toBe(404);
    expect(await status(`db_name=postgres&timestamp=${early}`)).toBe(404);
    expect(await status('db_name=neondb&format=xml')).toBe(400);
    expect(await status(`db_name=neondb&lsn=0/1&timestamp=${early}`)).toBe(400);
    expect(await status('db_name=neondb&timestamp=yesterday')).toBe(400);
    expect(await status('db_name=neondb&timestamp=2020-01-01T00:00:00Z')).toBe(422);
    expect(await status('db_name=neondb&lsn=FFFF/0')).toBe(422);
  });
});

describe('of two branches', () => {
  let child: Place;
  beforeAll(async () => {
    child = await ballast.api.createBranch(main, { name: 'dev' });
    await query(child.uri, 'alter table fruit add column colour text');
  });

  test('compared with its parent, with itself, with another, then and now', async () => {
    const { diff } = await compare(child);
    expect(diff).toMatch(/^--- a\/neondb\n\+\+\+ b\/neondb\n@@ /);
    expect(diff.split('\n').filter((line) => /^[+-](?![+-])/.test(line))).toEqual([
      '-    name text NOT NULL',
      '+    name text NOT NULL,',
      '+    colour text',
    ]);
    expect(await compare(main, { base_branch_id: main.branchId })).toEqual({ diff: '' });
    const reverse = await compare(main, { base_branch_id: child.branchId });
    expect(reverse.diff).toContain('-    colour text');
    const since = await compare(main, { base_branch_id: main.branchId, base_timestamp: early });
    expect(since.diff).toContain('+CREATE TABLE public.basket (');
    const root = await ballast.api.request('GET', `${branchPath(main)}/compare_schema?db_name=neondb`);
    expect(root.status).toBe(400);
  });

  test('by the SDK', async () => {
    const answer = await neonApiClient(ballast).getProjectBranchSchemaComparison({
      projectId: child.projectId,
      branchId: child.branchId,
      db_name: 'neondb',
    } as never);
    expect((answer.data as { diff: string }).diff).toContain('+    colour text');
  });

  test('neon branches schema-diff', async () => {
    const cli = neonCli(ballast);
    const project = ['--project-id', main.projectId];
    const ran = await cli.raw(['branches', 'schema-diff', 'main', 'dev', '--database', 'neondb', ...project]);
    expect(ran).toMatchObject({ code: 0 });
    expect(ran.stdout).toContain('+    colour text');
    const past = await cli.raw([
      'branches',
      'schema-diff',
      'main',
      `main@${early}`,
      '--database',
      'neondb',
      ...project,
    ]);
    expect(past).toMatchObject({ code: 0 });
    expect(past.stdout + past.stderr).toContain('basket');
  });
});

describe('a schema-only branch', () => {
  let source: Place;
  beforeAll(async () => {
    source = await ballast.api.createProject({ name: 'templates' });
    for (const statement of [
      'create extension pg_trgm',
      'create role app login',
      'create role reader nologin',
      'create table items (id int generated always as identity primary key, name text)',
      'create index on items using gin (name gin_trgm_ops)',
      `insert into items (name) select 'secret ' || n from generate_series(1, 1000) n`,
      'grant select on items to reader',
      'alter default privileges grant select on tables to reader',
      'create view names as select name from items',
      'alter database neondb set statement_timeout = 12345',
      'analyze items',
    ]) {
      await query(source.uri, statement);
    }
  });

  const create = async (body: object) => {
    const created = await ballast.api.call('POST', `/projects/${source.projectId}/branches`, body);
    await ballast.api.settle(created);
    return created;
  };
  const placeOf = (created: any): Place => ({
    ...source,
    branchId: created.branch.id,
    endpointId: created.endpoints[0].id,
    uri: created.connection_uris?.[0].connection_uri ?? '',
  });

  test('is a root with roles, passwords, databases, extensions, grants, and nothing else', async () => {
    const created = await create({
      branch: { parent_id: source.branchId, name: 'empty', init_source: 'schema-only' },
      endpoints: [{ type: 'read_write' }],
    });
    expect(created.operations.map(({ action }: { action: string }) => action)).toEqual([
      'create_timeline',
      'apply_schema_from_branch',
      'start_compute',
    ]);
    expect(created.branch).toMatchObject({ name: 'empty', init_source: 'schema-only', current_state: 'init' });
    expect(created.branch).not.toHaveProperty('parent_id');
    expect(created.branch).not.toHaveProperty('parent_lsn');
    const place = placeOf(created);
    const { branch } = await ballast.api.call('GET', branchPath(place));
    expect(branch).toMatchObject({ current_state: 'ready', init_source: 'schema-only' });
    const uri = ballast.uri(place);
    expect(await scalar(uri, 'select count(*)::int from items')).toBe(0);
    expect(await scalar(uri, 'select count(*)::int from pg_stats where schemaname = $$public$$')).toBe(0);
    expect(await query(uri, `insert into items (name) values ('first') returning id`)).toEqual([{ id: 1 }]);
    expect(await scalar(uri, 'show statement_timeout')).toBe('12345ms');
    expect(await scalar(uri, `select has_table_privilege('reader', 'names', 'select')`)).toBe(true);
    expect(await scalar(uri, `select pg_has_role('app', 'neon_superuser', 'member')`)).toBe(false);
    expect(await scalar(uri, `select pg_has_role('neondb_owner', 'neon_superuser', 'member')`)).toBe(true);
    expect(await query(uri, `select rolname::text from pg_roles where rolname like 'ballast%'`)).toEqual([]);
    expect((await schema(place)).sql).toBe((await schema(source)).sql);
    expect((await compare(place, { base_branch_id: source.branchId })).diff).toBe('');
    const { roles } = await ballast.api.call('GET', `${branchPath(place)}/roles`);
    expect(roles.map(({ name }: { name: string }) => name).toSorted()).toEqual(['app', 'neondb_owner', 'reader']);
    const reveal = `${branchPath(place)}/roles/neondb_owner/reveal_password`;
    expect((await ballast.api.call('GET', reveal)).password).toBe(source.password);
  });

  test('of a sleeping source at a point of its past, without an endpoint; the source sleeps on', async () => {
    await sleep(1_100);
    const before = new Date().toISOString();
    await sleep(1_100);
    await query(source.uri, 'create table later (x int)');
    await ballast.api.suspend(source);
    const created = await create({
      branch: { parent_id: source.branchId, name: 'past', init_source: 'schema-only', parent_timestamp: before },
    });
    expect(created.endpoints).toEqual([]);
    expect(await ballast.api.endpointState(source)).toBe('idle');
    const { sql } = await schema({ ...source, branchId: created.branch.id });
    expect(sql).toContain('CREATE TABLE public.items');
    expect(sql).not.toContain('later');
    // An endpoint that it gets later finds all of it.
    const { endpoint, operations } = await ballast.api.call('POST', `/projects/${source.projectId}/endpoints`, {
      endpoint: { branch_id: created.branch.id, type: 'read_write' },
    });
    await ballast.api.settle({ operations });
    const uri = ballast.uri({ ...source, endpointId: endpoint.id });
    expect(await query(uri, 'select * from items')).toEqual([]);
    // It can be deleted, unlike the first root.
    await ballast.api.callAndSettle('DELETE', branchPath({ ...source, branchId: created.branch.id }));
  });

  test('neon branches create --schema-only', async () => {
    const created = await neonCli(ballast).json([
      ...['branches', 'create', '--project-id', source.projectId, '--name', 'by-cli', '--schema-only'],
      ...['--parent', source.branchId],
    ]);
    expect(created.branch).not.toHaveProperty('parent_id');
    const place = { ...source, branchId: created.branch.id, endpointId: created.endpoints[0].id };
    await ballast.api.idle(source.projectId);
    expect(await query(ballast.uri(place), 'select * from items')).toEqual([]);
  });

  test.each([50, 700, 1500])('kill -9 %i ms into the copy: it is made again', async (afterMs) => {
    const created = await ballast.api.call('POST', `/projects/${source.projectId}/branches`, {
      branch: { parent_id: source.branchId, init_source: 'schema-only' },
      endpoints: [{ type: 'read_write' }],
    });
    await sleep(afterMs);
    await ballast.kill9();
    await ballast.start();
    await ballast.api.settle(created);
    const place = { ...source, branchId: created.branch.id, endpointId: created.endpoints[0].id };
    expect(await query(ballast.uri(place), `select rolname::text from pg_roles where rolname like 'ballast%'`)).toEqual(
      [],
    );
    expect((await compare(place, { base_branch_id: source.branchId })).diff).toBe('');
    await ballast.api.callAndSettle('DELETE', `${branchPath(place)}?hard_delete=true`);
    const computes = await ballast.postgresProcesses();
    expect(computes.filter(({ command }) => command.includes('schema-'))).toEqual([]);
  });

  test('a schema that refuses to be loaded says so, and its branch can be deleted', async () => {
    await query(source.uri, 'create table marks as select 1 as x');
    await query(
      source.uri,
      `create function once() returns int language plpgsql immutable as $$ begin
         if not exists (select from public.marks) then raise exception 'no marks'; end if; return 1; end $$`,
    );
    await query(source.uri, 'create index on items (id) where once() = 1');
    const created = await ballast.api.call('POST', `/projects/${source.projectId}/branches`, {
      branch: { parent_id: source.branchId, name: 'refused', init_source: 'schema-only' },
    });
    await expect(ballast.api.settle(created)).rejects.toThrow(/the schema could not be loaded: no marks/);
    await ballast.api.callAndSettle('DELETE', branchPath({ ...source, branchId: created.branch.id }));
  });
});
