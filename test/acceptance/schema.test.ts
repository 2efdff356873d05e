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
