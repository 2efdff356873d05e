/**
 * Read replicas as users have them: made by the API, reached by psql and drivers through their own host, following their
 * primary, answering while it sleeps, waking on connect, sleeping by themselves, rebuilt by a restore, resized in order.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { hasPsql, libpqEnvironment, neonCli, psql } from '../support/clients.ts';
import { connect, failureOf, query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

const SUSPEND_SECONDS = 3;
let ballast: Ballast;
let primary: Place;
let replica: Place;

beforeAll(async () => {
  ballast = await Ballast.boot({ flags: ['--default-suspend-timeout', String(SUSPEND_SECONDS)] });
  primary = await ballast.api.createProject({
    name: 'replicated',
    default_endpoint_settings: { suspend_timeout_seconds: -1 },
  });
  await query(primary.uri, 'create table fruit (name text)');
  replica = await makeReplica(primary);
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

async function makeReplica(of: Place, fields: Record<string, unknown> = {}): Promise<Place> {
  const { endpoint } = await ballast.api.callAndSettle('POST', `/projects/${of.projectId}/endpoints`, {
    endpoint: { branch_id: of.branchId, type: 'read_only', suspend_timeout_seconds: -1, ...fields },
  });
  return { ...of, endpointId: endpoint.id, uri: of.uri.replaceAll(of.endpointId, endpoint.id) };
}

const fruits = async (place: Place) => Number(await scalar(place.uri, 'select count(*) from fruit'));
const follows = (place: Place, count: number) =>
  waitFor(`the replica to have ${count} rows`, async () => (await fruits(place)) === count);

test('the URI of a replica is its own; it follows its primary and refuses writes', async () => {
  const parameters = `database_name=${primary.database}&role_name=${primary.role}&endpoint_id=${replica.endpointId}`;
  const { uri } = await ballast.api.call('GET', `/projects/${primary.projectId}/connection_uri?${parameters}`);
  expect(uri).toBe(replica.uri);
  await query(primary.uri, "insert into fruit values ('apple')");
  await follows(replica, 1);
  expect(await failureOf(() => query(replica.uri, "insert into fruit values ('pear')"))).toMatchObject({
    code: '25006',
  });
  expect(await failureOf(() => query(replica.uri, 'create role mallory'))).toMatchObject({ code: '25006' });
  expect(await scalar(replica.uri, 'select pg_is_in_recovery()')).toBe(true);
});

test.skipIf(!hasPsql)('psql and the CLI find it by its type (skipped without psql)', async () => {
  const ran = await psql({ env: libpqEnvironment(ballast, replica) }, 'select pg_is_in_recovery()');
  expect(ran).toMatchObject({ code: 0, stdout: 't\n' });
  const on = ['--project-id', primary.projectId, '--endpoint-type', 'read_only'];
  const printed = await neonCli(ballast).raw(['connection-string', 'main', ...on]);
  expect(printed.stdout).toContain(replica.endpointId);
  const byType = { ...libpqEnvironment(ballast, primary), PGOPTIONS: 'neon_endpoint_type:read_only' };
  expect(await psql({ env: byType }, 'select pg_is_in_recovery()')).toMatchObject({ code: 0, stdout: 't\n' });
});

test('roles that SQL makes on the primary get into the replica', async () => {
  await query(primary.uri, `create role reader login password 'Correct-horse-9'`);
  const uri = new URL(replica.uri);
  [uri.username, uri.password] = ['reader', 'Correct-horse-9'];
  await waitFor('the new role to get in', async () => (await scalar(uri.toString(), 'select 1')) === 1);
});

test('it answers while the primary sleeps without waking it, and follows when that is woken', async () => {
  await ballast.api.suspend(primary);
  const before = await fruits(replica);
  expect(await ballast.api.endpointState(primary)).toBe('idle');
  await query(primary.uri, "insert into fruit values ('plum')");
  await follows(replica, before + 1);
});

test('it wakes on connect, also while the primary sleeps, and goes to sleep by itself', async () => {
  const sleepy = await makeReplica(primary, { suspend_timeout_seconds: 0 });
  const before = await fruits(primary);
  await waitFor('the replica to fall asleep', async () => (await ballast.api.endpointState(sleepy)) === 'idle');
  await ballast.api.suspend(primary);
  expect(await fruits(sleepy)).toBe(before);
  expect(await ballast.api.endpointState(sleepy)).toBe('active');
  expect(await ballast.api.endpointState(primary)).toBe('idle');
  await ballast.api.callAndSettle('DELETE', ballast.api.endpointPath(sleepy));
  expect((await failureOf(() => fruits(sleepy)))?.message).toContain('could not be found');
  await query(primary.uri, 'select 1');
});

test('a replica keeps no primary awake', async () => {
  const other = await ballast.api.createProject({ default_endpoint_settings: { suspend_timeout_seconds: 0 } });
  await query(other.uri, 'create table fruit (name text)');
  const follower = await makeReplica(other);
  await follows(follower, 0);
  await waitFor('the primary to fall asleep', async () => (await ballast.api.endpointState(other)) === 'idle');
  expect(await fruits(follower)).toBe(0);
});

describe('a restore of its branch', () => {
  test('rebuilds it with what was restored', async () => {
    const before = await fruits(primary);
    const { now } = (await query<{ now: string }>(primary.uri, 'select clock_timestamp()::text as now'))[0]!;
    await waitFor('a moment to pass', async () =>
      scalar(primary.uri, 'select clock_timestamp() > $1::timestamptz', [now]),
    );
    await query(primary.uri, "insert into fruit values ('mistake')");
    await follows(replica, before + 1);
    await ballast.api.callAndSettle('POST', `/projects/${primary.projectId}/branches/${primary.branchId}/restore`, {
      source_branch_id: primary.branchId,
      source_timestamp: `${now.replace(' ', 'T')}:00`,
      preserve_under_name: 'main before',
    });
    await follows(replica, before);
    await query(primary.uri, "insert into fruit values ('right')");
    await follows(replica, before + 1);
  });
});

test('a larger primary does not leave it behind', async () => {
  const before = await fruits(primary);
  const { operations } = await ballast.api.callAndSettle('PATCH', ballast.api.endpointPath(primary), {
    endpoint: { autoscaling_limit_min_cu: 1, autoscaling_limit_max_cu: 1 },
  });
  expect(operations.map((one: { endpoint_id: string }) => one.endpoint_id)).toEqual([
    replica.endpointId,
    primary.endpointId,
  ]);
  await query(primary.uri, "insert into fruit values ('large')");
  await follows(replica, before + 1);
  expect(await scalar(replica.uri, 'show max_connections')).toBe('419');
});

test('it survives a kill -9 of Ballast', async () => {
  const before = await fruits(replica);
  const session = await connect(primary.uri);
  await session.query("insert into fruit values ('before the crash')");
  await session.end();
  await ballast.kill9();
  await ballast.start();
  await follows(replica, before + 1);
  await query(primary.uri, "insert into fruit values ('after the crash')");
  await follows(replica, before + 2);
});

test('a branch may have nothing else', async () => {
  const created = await ballast.api.callAndSettle('POST', `/projects/${primary.projectId}/branches`, {
    endpoints: [{ type: 'read_only' }],
  });
  const only = { ...primary, uri: created.connection_uris?.[0]?.connection_uri ?? primary.uri };
  const uri = only.uri.replaceAll(primary.endpointId, created.endpoints[0].id);
  expect(Number(await scalar(uri, 'select count(*) from fruit'))).toBeGreaterThan(0);
  expect(await failureOf(() => query(uri, 'create table t ()'))).toMatchObject({ code: '25006' });
});
