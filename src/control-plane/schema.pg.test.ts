import type { CreateProjectResponse } from '@neon/sdk/raw';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../test/support/control-plane.ts';
import { createFakeEngine, type FakeEngine } from '../../test/support/fake-engine.ts';
import { makeTestOperations, TEST_NODE, type TestOperations } from '../../test/support/operations.ts';
import { waitFor } from '../../test/support/wait.ts';
import { AppError } from '../lib/errors.ts';
import type { SchemaSource } from './context.ts';

let api: TestApi;
let engine: FakeEngine;
let work: TestOperations;
let made: CreateProjectResponse;
let base: string;
let asked: SchemaSource[] = [];

beforeAll(async () => {
  api = await openTestApi({
    dumpSchema: async (source) => {
      asked.push(source);
      return `-- Dumped from database version 17.${asked.length}\n\ntable of ${source.timelineId};\n`;
    },
    listSchema: async (source) => {
      asked.push(source);
      return { tables: [{ schema: 'public', name: 't', columns: [] }] };
    },
  });
});
afterAll(() => api.close());
beforeEach(async () => {
  asked = [];
  engine = createFakeEngine();
  work = makeTestOperations({ catalog: api.catalog, engine });
  await work.runner.start();
  made = await api.call('POST', '/projects', { project: {} });
  await api.catalog.query('update projects set node_id = $2 where id = $1', [made.project.id, TEST_NODE]);
  base = `/projects/${made.project.id}/branches`;
  await ended();
});
afterEach(async () => {
  await work.stop();
  await api.catalog.query(`update operations set status = 'finished' where status in ('scheduling', 'running')`);
});

const operations = () =>
  api.catalog.query<{ action: string; status: string; error: string | null }>(
    'select action, status, error from operations where project_id = $1 order by seq',
    [made.project.id],
  );
const ended = () =>
  waitFor('operations to end', async () => {
    const rows = await operations();
    return rows.every((row) => row.status !== 'running' && row.status !== 'scheduling') && rows;
  });
const create = async (body: object) => (await api.call('POST', base, body)).branch.id as string;
const reply = async (method: string, path: string, body?: object) => {
  const { status, body: answer } = await api.request(method, path, body);
  return [status, answer?.message];
};

describe('schema', () => {
  const path = (parameters: string) => `${base}/${made.branch.id}/schema?${parameters}`;

  test('200: of the head, of a point, as a listing', async () => {
    expect(await api.call('GET', path('db_name=neondb'))).toEqual({
      sql: `-- Dumped from database version 17.1\n\ntable of ${made.branch.id};\n`,
    });
    expect(await api.call('GET', path('db_name=neondb&format=json&lsn=0/1964258'))).toMatchObject({
      json: { tables: [{ name: 't' }] },
    });
    await api.call('GET', path('db_name=gone&timestamp=2026-01-16T20:53:56.1234567%2B01:00'));
    const endpointId = made.endpoints[0]!.id;
    expect(asked).toMatchObject([
      { point: { kind: 'head' }, database: 'neondb', timelineId: made.branch.id, endpointId, size: { minCu: 0.25 } },
      { point: { kind: 'lsn', lsn: '0/1964258' } },
      { point: { kind: 'time', time: '2026-01-16T19:53:56.123456Z' }, database: 'gone' },
    ]);
    const { startMs, nowMs } = asked[0]!.window;
    expect(nowMs - startMs).toBe(made.project.history_retention_seconds * 1000);
  });

  test('400, 404', async () => {
    expect((await reply('GET', path('')))[0]).toBe(400);
    expect((await reply('GET', path('db_name=neondb&format=xml')))[0]).toBe(400);
    expect((await reply('GET', path('db_name=neondb&lsn=x')))[0]).toBe(400);
    expect((await reply('GET', path('db_name=neondb&timestamp=2026-01-16')))[0]).toBe(400);
    expect((await reply('GET', path('db_name=neondb&lsn=0/1&timestamp=2026-01-16T00:00:00Z')))[0]).toBe(400);
    expect(await reply('GET', path('db_name=other'))).toEqual([404, 'database not found']);
    expect(await reply('GET', `${base}/br-none-123/schema?db_name=neondb`)).toEqual([404, 'branch not found']);
    expect(asked).toEqual([]);
  });
});

describe('compare_schema', () => {
  const path = (id: string, parameters = '') => `${base}/${id}/compare_schema?db_name=neondb${parameters}`;

  test('200: with the parent, or whatever is named; the build of the server makes no difference', async () => {
    const child = await create({});
    await ended();
    expect(await api.call('GET', path(child))).toEqual({
      diff: [
        '--- a/neondb\n+++ b/neondb\n@@ -1,3 +1,3 @@',
        ` -- Dumped from database version 17.2`,
        ' ',
        `-table of ${made.branch.id};`,
        `+table of ${child};`,
        '',
      ].join('\n'),
    });
    expect(await api.call('GET', path(child, `&base_branch_id=${child}&base_lsn=0/1964258`))).toEqual({ diff: '' });
    expect(asked.slice(2).map(({ point }) => point)).toEqual([{ kind: 'lsn', lsn: '0/1964258' }, { kind: 'head' }]);
  });

  test('400 without a base, 404 for one that is not there', async () => {
    expect(await reply('GET', path(made.branch.id))).toEqual([
      400,
      'invalid request: base_branch_id is required: the branch has no parent',
    ]);
    expect(await reply('GET', path(made.branch.id, '&base_branch_id=br-none-123'))).toEqual([404, 'branch not found']);
    const both = '&base_lsn=0/1&base_timestamp=2026-01-16T00:00:00Z';
    expect((await reply('GET', path(made.branch.id, `&base_branch_id=${made.branch.id}${both}`)))[0]).toBe(400);
  });
});

describe('init_source schema-only', () => {
  const schemaOnly = (branch: object = {}, endpoints: object[] = [{ type: 'read_write' }]) =>
    api.call('POST', base, { branch: { init_source: 'schema-only', ...branch }, endpoints });
  const read = async (id: string) => (await api.call('GET', `${base}/${id}`)).branch;

  test('201: a root that is ready once it has the schema', async () => {
    const applied: string[] = [];
    engine.fault = (call) => void applied.push(call);
    const answer = await schemaOnly({ name: 'empty', parent_lsn: '0/1964258' });
    expect(answer.branch).toMatchObject({ name: 'empty', init_source: 'schema-only', current_state: 'init' });
    expect(answer.branch).not.toHaveProperty('parent_id');
    expect(answer.branch).not.toHaveProperty('parent_lsn');
    expect(answer.operations.map(({ action }: { action: string }) => action)).toEqual([
      'create_timeline',
      'apply_schema_from_branch',
      'start_compute',
    ]);
    expect(answer.roles).toMatchObject([{ name: 'neondb_owner' }]);
    expect(answer.connection_uris).toHaveLength(1);
    await ended();
    expect(applied).toContain(`copySchema ${made.branch.id} {"kind":"lsn","lsn":"0/1964258"}`);
    expect(await read(answer.branch.id)).toMatchObject({ current_state: 'ready', init_source: 'schema-only' });
    const { databases } = await api.call('GET', `${base}/${answer.branch.id}/databases`);
    expect(databases).toMatchObject([{ name: 'neondb', owner_name: 'neondb_owner' }]);
  });

  test('201: archived, without an endpoint', async () => {
    const answer = await schemaOnly({ archived: true }, []);
    expect(answer.endpoints).toEqual([]);
    await ended();
    expect(await read(answer.branch.id)).toMatchObject({ current_state: 'archived' });
  });

  test('a protected source keeps its passwords to itself', async () => {
    await api.call('PATCH', `${base}/${made.branch.id}`, { branch: { protected: true } });
    const { branch } = await schemaOnly();
    const { password } = await api.call('GET', `${base}/${branch.id}/roles/neondb_owner/reveal_password`);
    expect(password).not.toBe(made.roles[0]!.password);
    await api.call('PATCH', `${base}/${made.branch.id}`, { branch: { protected: false } });
  });

  test('what fails for a moment is tried again', async () => {
    let failures = 2;
    engine.fault = (call) => {
      if (call.startsWith('copySchema') && failures-- > 0) throw new AppError('unavailable', 'not now');
    };
    const { branch } = await schemaOnly();
    await ended();
    expect(await read(branch.id)).toMatchObject({ current_state: 'ready' });
  });

  test('what cannot be loaded leaves a branch without data, which can be deleted', async () => {
    engine.fault = (call) => {
      if (call.startsWith('copySchema')) throw new AppError('unprocessable', 'the schema could not be loaded: no');
    };
    const { branch } = await schemaOnly();
    const rows = await ended();
    expect(rows.slice(-2)).toEqual([
      { action: 'apply_schema_from_branch', status: 'failed', error: 'the schema could not be loaded: no' },
      { action: 'start_compute', status: 'failed', error: expect.any(String) },
    ]);
    expect(await read(branch.id)).toMatchObject({ current_state: 'init' });
    expect(engine.timelines.has(branch.id)).toBe(false);
    engine.fault = () => undefined;
    await api.call('DELETE', `${base}/${branch.id}`);
    await ended();
  });

  test('423 while the source is being made', async () => {
    let release = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    engine.fault = (call) => (call.startsWith('createChild') ? held : undefined);
    const child = await create({});
    expect((await reply('POST', base, { branch: { init_source: 'schema-only', parent_id: child } }))[0]).toBe(423);
    release();
    await ended();
  });
});
