/**
 * The main job with unmodified clients: projects, branches, endpoints, databases and roles are made, SQL runs on all of
 * them, computes sleep and wake on connect, a restart changes nothing, and everything can be deleted.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import postgres from 'postgres';
import { Ballast } from '../support/ballast.ts';
import { hasPsql, libpqEnvironment, neonApiClient, neonCli, neonSdk, psql } from '../support/clients.ts';
import { query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

describe('neon CLI', () => {
  let projectId: string;
  let uri: string;

  test('creates a project whose connection URI works as it is printed', async () => {
    const created = await neonCli(ballast).json([
      'projects',
      'create',
      '--name',
      'cli-project',
      '--region-id',
      'aws-us-east-2',
    ]);
    projectId = created.project.id;
    uri = created.connection_uris[0].connection_uri;
    expect(created.project).toMatchObject({ name: 'cli-project', region_id: 'aws-us-east-2', pg_version: 17 });
    expect(await scalar(uri, 'select 40 + 2')).toBe(42);
  });

  test('lists and gets it', async () => {
    const cli = neonCli(ballast);
    const listed = await cli.json(['projects', 'list']);
    const projects = Array.isArray(listed) ? listed : listed.projects;
    expect(projects.map((project: { id: string }) => project.id)).toContain(projectId);
    expect(await cli.json(['projects', 'get', projectId])).toMatchObject({ id: projectId, name: 'cli-project' });
    expect(await cli.json(['me'])).toHaveProperty('email');
  });

  test('creates a branch by name, with the data of its parent', async () => {
    await query(uri, "create table fruit (name text); insert into fruit values ('apple')");
    const cli = neonCli(ballast);
    const created = await cli.json(['branches', 'create', '--project-id', projectId, '--name', 'preview/pr-12']);
    expect(created.branch).toMatchObject({ name: 'preview/pr-12', project_id: projectId });
    expect(created.endpoints).toHaveLength(1);
    const branchUri: string = created.connection_uris[0].connection_uri;
    expect(await query(branchUri, 'select name from fruit')).toEqual([{ name: 'apple' }]);
    const listed = await cli.json(['branches', 'list', '--project-id', projectId]);
    expect(listed.map((branch: { name: string }) => branch.name).toSorted()).toEqual(['main', 'preview/pr-12']);
    expect(await cli.json(['branches', 'get', 'preview/pr-12', '--project-id', projectId])).toMatchObject({
      id: created.branch.id,
    });
  });

  test('makes databases and roles', async () => {
    const cli = neonCli(ballast);
    const on = ['--project-id', projectId, '--branch', 'preview/pr-12'];
    expect(await cli.json(['roles', 'create', ...on, '--name', 'analyst'])).toMatchObject({ name: 'analyst' });
    expect(
      await cli.json(['databases', 'create', ...on, '--name', 'reports', '--owner-name', 'analyst']),
    ).toMatchObject({ name: 'reports' });
    const roles = await cli.json(['roles', 'list', ...on]);
    expect(roles.map((role: { name: string }) => role.name).toSorted()).toEqual(['analyst', 'neondb_owner']);
    const databases = await cli.json(['databases', 'list', ...on]);
    expect(databases.map((database: { name: string }) => database.name).toSorted()).toEqual(['neondb', 'reports']);
    const operations = await cli.json(['operations', 'list', '--project-id', projectId]);
    expect(operations.map((operation: { action: string }) => operation.action)).toContain('apply_config');
  });

  test('connection-string names role, host and database, and its password works over TLS with channel binding', async () => {
    const cli = neonCli(ballast);
    await ballast.api.idle(projectId);
    const args = [
      'connection-string',
      'preview/pr-12',
      '--project-id',
      projectId,
      '--role-name',
      'analyst',
      '--database-name',
      'reports',
    ];
    const ran = await cli.raw(args);
    expect(ran).toMatchObject({ code: 0 });
    const printed = new URL(ran.stdout.trim());
    expect(printed.username).toBe('analyst');
    expect(printed.pathname).toBe('/reports');
    expect(printed.hostname).toMatch(/^ep-[a-z]+-[a-z]+-[a-z0-9]+\.localhost$/);
    expect(printed.searchParams.get('channel_binding')).toBe('require');
    const pooled = await cli.raw([...args, '--pooled']);
    expect(new URL(pooled.stdout.trim()).hostname).toContain('-pooler.');
  });

  test.skipIf(!hasPsql)('psql through the CLI runs SQL on the branch (skipped without psql)', async () => {
    const ran = await neonCli(ballast).raw([
      'psql',
      'preview/pr-12',
      '--project-id',
      projectId,
      '--role-name',
      'analyst',
      '--database-name',
      'reports',
      '--',
      '-X',
      '-At',
      '-c',
      'select current_user, current_database()',
    ]);
    expect(ran).toMatchObject({ code: 0, stdout: expect.stringContaining('analyst|reports') });
  });

  test('set-context, rename, set-default, api passthrough and delete', async () => {
    const cli = neonCli(ballast);
    expect((await cli.raw(['set-context', '--project-id', projectId])).code).toBe(0);
    expect(await cli.json(['branches', 'rename', 'preview/pr-12', 'renamed', '--project-id', projectId])).toMatchObject(
      { name: 'renamed' },
    );
    expect(await cli.json(['branches', 'set-default', 'renamed', '--project-id', projectId])).toMatchObject({
      default: true,
    });
    expect(await cli.json(['branches', 'set-default', 'main', '--project-id', projectId])).toMatchObject({
      default: true,
    });
    const passthrough = await cli.raw(['api', `/projects/${projectId}`]);
    expect(JSON.parse(passthrough.stdout)).toMatchObject({ project: { id: projectId } });
    expect(
      (await cli.raw(['databases', 'delete', 'reports', '--project-id', projectId, '--branch', 'renamed'])).code,
    ).toBe(0);
    expect((await cli.raw(['roles', 'delete', 'analyst', '--project-id', projectId, '--branch', 'renamed'])).code).toBe(
      0,
    );
    expect((await cli.raw(['branches', 'delete', 'renamed', '--project-id', projectId])).code).toBe(0);
    expect((await cli.raw(['projects', 'delete', projectId])).code).toBe(0);
    expect((await ballast.api.request('GET', `/projects/${projectId}`)).status).toBe(404);
  });

  test('a wrong key is refused with a message and a code other than 0', async () => {
    const ran = await neonCli(ballast, 'napi_wrong').raw(['projects', 'list', '--output', 'json']);
    expect(ran.code).not.toBe(0);
  });
});

describe('@neon/sdk', () => {
  test('creates and connects, branches and connects, and cleans up', async () => {
    const neon = neonSdk(ballast);
    const { project, connectionString } = await neon.projects.createAndConnect({ name: 'sdk-project', pooled: false });
    expect(await scalar(connectionString, 'select 1')).toBe(1);
    await query(connectionString, 'create table t (n int); insert into t values (7)');

    const branched = await neon.branches.createAndConnect({ projectId: project.id, name: 'dev', pooled: false });
    expect(await scalar(branched.connectionString, 'select n from t')).toBe(7);
    expect((await neon.branches.getDefault({ projectId: project.id })).name).toBe('main');

    const at = { projectId: project.id, branchId: branched.branch.id };
    const wait = { waitForReadiness: true };
    const role = await neon.postgres.roles.create({ ...at, name: 'app' }, wait);
    await neon.postgres.databases.create({ ...at, name: 'appdb', owner_name: 'app' }, wait);
    expect(await neon.postgres.roles.password({ ...at, roleName: 'app' })).toBe(
      (role as { password?: string }).password,
    );
    const uri = await neon.postgres.connectionString({ ...at, databaseName: 'appdb', roleName: 'app', pooled: false });
    expect(await scalar(uri, 'select current_user::text')).toBe('app');

    const reset = await neon.postgres.roles.resetPassword({ ...at, roleName: 'app' }, wait);
    expect((reset as { password?: string }).password).not.toBe((role as { password?: string }).password);

    expect((await neon.projects.list().all()).map((item) => item.id)).toContain(project.id);
    await expect(neon.branches.get({ projectId: project.id, branchId: 'br-none-none-00000000' })).rejects.toMatchObject(
      { kind: 'not_found' },
    );
    await neon.branches.delete(at, wait);
    await neon.projects.delete({ projectId: project.id });
    await expect(neon.projects.get({ projectId: project.id })).rejects.toMatchObject({ kind: 'not_found' });
  });
});

describe('@neondatabase/api-client', () => {
  test('drives project, branch, endpoint, role and database', async () => {
    const client = neonApiClient(ballast);
    const { data: created, status } = await client.createProject({ project: { name: 'api-client' } });
    expect(status).toBe(201);
    const projectId = created.project.id;
    await ballast.api.settle(created as never);

    const bare = await client.createProjectBranch(projectId);
    expect(bare.data.endpoints ?? []).toHaveLength(0);
    await ballast.api.settle(bare.data as never);
    const branchId = bare.data.branch.id;
    const endpoint = await client.createProjectEndpoint(projectId, {
      endpoint: { branch_id: branchId, type: 'read_write' as never },
    });
    expect(endpoint.status).toBe(201);
    await ballast.api.settle(endpoint.data as never);
    const { data: uri } = await client.getConnectionUri({
      projectId,
      branch_id: branchId,
      database_name: 'neondb',
      role_name: 'neondb_owner',
    });
    expect(await scalar(uri.uri, 'select current_database()::text')).toBe('neondb');

    await ballast.api.settle((await client.suspendProjectEndpoint(projectId, endpoint.data.endpoint.id)).data as never);
    const { data: slept } = await client.getProjectEndpoint(projectId, endpoint.data.endpoint.id);
    expect(slept.endpoint.current_state).toBe('idle');
    expect(await scalar(uri.uri, 'select 5')).toBe(5);

    await ballast.api.settle((await client.deleteProjectBranch({ projectId, branchId })).data as never);
    await expect(client.getProjectBranch(projectId, branchId)).rejects.toMatchObject({ response: { status: 404 } });
    await client.deleteProject(projectId);
  });
});

describe('Postgres drivers', () => {
  test('postgres.js connects with the URI of the API, queries in a transaction and copies', async () => {
    const place = await ballast.api.createProject();
    const sql = postgres(place.uri, { max: 2, onnotice: () => {} });
    try {
      await sql`create table numbers (n int primary key)`;
      await sql.begin(async (tx) => {
        for (let n = 1; n <= 100; n++) await tx`insert into numbers values (${n})`;
      });
      const [row] = await sql`select count(*)::int as n, sum(n)::int as s from numbers`;
      expect(row).toEqual({ n: 100, s: 5050 });
      const heard = new Promise((resolve) => void sql.listen('news', resolve).then(() => sql.notify('news', 'hello')));
      expect(await heard).toBe('hello');
    } finally {
      await sql.end();
    }
  });

  test.skipIf(!hasPsql)(
    'psql connects by URI, by host name with TLS and channel binding, and by password prefix (skipped without psql)',
    async () => {
      const place = await ballast.api.createProject();
      const sql = 'select current_user';
      expect(await psql({ uri: place.uri }, sql)).toMatchObject({ code: 0, stdout: 'neondb_owner\n' });
      const tls = libpqEnvironment(ballast, place);
      expect(await psql({ env: tls }, sql)).toMatchObject({ code: 0, stdout: 'neondb_owner\n' });
      expect(await psql({ env: { ...tls, PGCHANNELBINDING: 'require' } }, sql)).toMatchObject({
        code: 0,
        stdout: 'neondb_owner\n',
      });
      const byPrefix = { ...tls, PGHOST: 'localhost', PGPASSWORD: `endpoint=${place.endpointId};${place.password}` };
      expect(await psql({ env: byPrefix }, sql)).toMatchObject({ code: 0, stdout: 'neondb_owner\n' });
      const nowhere = await psql({ env: { ...tls, PGHOST: 'localhost' } }, sql);
      expect(nowhere.code).not.toBe(0);
      expect(nowhere.stderr).toMatch(/Endpoint ID is not specified|password authentication failed/);
    },
  );
});

describe('sleep, wake, restart', () => {
  test('a suspended compute wakes on connect with its data, also after a restart of Ballast', async () => {
    const place = await ballast.api.createProject({ name: 'sleeper' });
    await query(place.uri, 'create table kept (n int); insert into kept values (1)');
    await ballast.api.suspend(place);
    expect(await ballast.api.endpointState(place)).toBe('idle');
    expect(await scalar(place.uri, 'select n from kept')).toBe(1);
    await waitFor('the endpoint to be active', async () => (await ballast.api.endpointState(place)) === 'active');

    await ballast.stop();
    await ballast.start();
    expect(await scalar(place.uri, 'select n from kept')).toBe(1);
    await ballast.api.call('DELETE', `/projects/${place.projectId}`);
    await expect(scalar(place.uri, 'select 1')).rejects.toThrow();
    await ballast.api.call('POST', `/projects/${place.projectId}/recover`);
    expect(await scalar(place.uri, 'select n from kept')).toBe(1);
  });
});
