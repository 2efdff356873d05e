/**
 * What SQL changes is true for the API and the proxy too: roles, passwords and databases made inside Postgres. And the
 * life of a compute between them: wrong passwords, connections that arrive during a suspension, automatic suspension.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { connect, failureOf, query, scalar, uriWith } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

const DEFAULT_SUSPEND_SECONDS = 4;
let ballast: Ballast;
let place: Place;

beforeAll(async () => {
  ballast = await Ballast.boot({ flags: ['--default-suspend-timeout', String(DEFAULT_SUSPEND_SECONDS)] });
  place = await ballast.api.createProject({
    name: 'by sql',
    default_endpoint_settings: { suspend_timeout_seconds: -1 },
  });
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

const at = () => `/projects/${place.projectId}/branches/${place.branchId}`;
const names = async (kind: 'roles' | 'databases') =>
  ((await ballast.api.call('GET', `${at()}/${kind}`))[kind] as { name: string }[]).map((item) => item.name);
const refused = /^password authentication failed for user '/;

describe('roles', () => {
  beforeEach(() => query(place.uri, 'drop role if exists made').catch(() => {}));

  test('made by SQL log in at the proxy and show up in the API; dropped ones go', async () => {
    await query(place.uri, "create role made login password 'Correct-horse-9'");
    const uri = uriWith(place, { role: 'made', password: 'Correct-horse-9' });
    await waitFor('the new role to get in', async () => (await scalar(uri, 'select current_user::text')) === 'made');
    await waitFor('the API to list it', async () => (await names('roles')).includes('made'));
    const reveal = await ballast.api.request('GET', `${at()}/roles/made/reveal_password`);
    expect(reveal.status).toBeGreaterThanOrEqual(400);
    expect(reveal.status).toBeLessThan(500);
    await query(place.uri, 'drop role made');
    await waitFor('the API to forget it', async () => !(await names('roles')).includes('made'));
    expect((await failureOf(() => query(uri, 'select 1')))?.message).toMatch(refused);
  });

  test('a password changed by SQL counts at once, the old one no more', async () => {
    await query(place.uri, "create role made login password 'Correct-horse-9'");
    const old = uriWith(place, { role: 'made', password: 'Correct-horse-9' });
    await waitFor('the new role to get in', async () => (await scalar(old, 'select 1')) === 1);
    await query(place.uri, "alter role made password 'Another-horse-9'");
    const fresh = uriWith(place, { role: 'made', password: 'Another-horse-9' });
    await waitFor('the new password to work', async () => (await scalar(fresh, 'select 1')) === 1);
    expect(await failureOf(() => query(old, 'select 1'))).toBeDefined();
    await ballast.api.suspend(place);
    expect(await scalar(fresh, 'select 1')).toBe(1);
    expect((await failureOf(() => query(old, 'select 1')))?.message).toMatch(refused);
  });

  test('a branch keeps the passwords of its own moment', async () => {
    await query(place.uri, "create role made login password 'Correct-horse-9'");
    const child = await ballast.api.createBranch(place);
    await query(place.uri, "alter role made password 'Another-horse-9'");
    const change = { role: 'made', password: 'Correct-horse-9' };
    expect(await scalar(uriWith(child, change), 'select 1')).toBe(1);
    await waitFor(
      'the old password to be refused by the parent',
      async () => (await failureOf(() => query(uriWith(place, change), 'select 1'))) !== undefined,
    );
  });

  test('reset_password of the API: the new one works when its operation has ended, the old one does not', async () => {
    const { role } = await ballast.api.callAndSettle('POST', `${at()}/roles`, { role: { name: 'by_api' } });
    expect(await scalar(uriWith(place, { role: 'by_api', password: role.password }), 'select 1')).toBe(1);
    const reset = await ballast.api.callAndSettle('POST', `${at()}/roles/by_api/reset_password`);
    expect(await scalar(uriWith(place, { role: 'by_api', password: reset.role.password }), 'select 1')).toBe(1);
    expect(
      (await failureOf(() => query(uriWith(place, { role: 'by_api', password: role.password }), 'select 1')))?.message,
    ).toMatch(refused);
    await ballast.api.callAndSettle('DELETE', `${at()}/roles/by_api`);
    expect(
      (await failureOf(() => query(uriWith(place, { role: 'by_api', password: reset.role.password }), 'select 1')))
        ?.message,
    ).toMatch(refused);
  });

  test('no_login roles cannot log in', async () => {
    const { role } = await ballast.api.callAndSettle('POST', `${at()}/roles`, {
      role: { name: 'group_only', no_login: true },
    });
    expect(
      (
        await failureOf(() =>
          query(uriWith(place, { role: 'group_only', password: role.password ?? 'none' }), 'select 1'),
        )
      )?.message,
    ).toMatch(refused);
  });
});

describe('databases', () => {
  test('made, renamed and dropped by SQL follow in the API', async () => {
    const listed = () => expect.poll(() => names('databases'));
    await query(place.uri, 'create database by_sql');
    await listed().toContain('by_sql');
    await query(place.uri, 'alter database by_sql rename to renamed_by_sql');
    await listed().toContain('renamed_by_sql');
    expect(await names('databases')).not.toContain('by_sql');
    await query(place.uri, 'drop database renamed_by_sql');
    await listed().not.toContain('renamed_by_sql');
  });

  test('made, renamed, given away and deleted by the API follow in Postgres', async () => {
    await ballast.api.callAndSettle('POST', `${at()}/roles`, { role: { name: 'heir' } });
    await ballast.api.callAndSettle('POST', `${at()}/databases`, {
      database: { name: 'mine', owner_name: place.role },
    });
    await query(uriWith(place, { database: 'mine' }), 'create table t (n int)');
    await ballast.api.callAndSettle('PATCH', `${at()}/databases/mine`, {
      database: { name: 'theirs', owner_name: 'heir' },
    });
    const owner = 'select pg_get_userbyid(datdba)::text from pg_database where datname = $1';
    expect(await scalar(place.uri, owner, ['theirs'])).toBe('heir');
    expect(await scalar(place.uri, owner, ['mine'])).toBeUndefined();
    await ballast.api.callAndSettle('DELETE', `${at()}/databases/theirs`);
    expect(await scalar(place.uri, owner, ['theirs'])).toBeUndefined();
    await ballast.api.callAndSettle('DELETE', `${at()}/roles/heir`);
    expect(await names('roles')).not.toContain('heir');
  });
});

describe('suspension', () => {
  test('an open session is ended by 57P01, and the next one wakes the compute', async () => {
    const session = await connect(place.uri);
    const ended = new Promise<{ code?: string }>((resolve) => void session.once('error', resolve));
    await ballast.api.suspend(place);
    expect((await ended).code).toBe('57P01');
    await session.end().catch(() => {});
    expect(await scalar(place.uri, 'select 1')).toBe(1);
  });

  test('connections that arrive while it goes to sleep wait and are served', async () => {
    for (let round = 0; round < 5; round++) {
      const suspended = await ballast.api.call('POST', `${ballast.api.endpointPath(place)}/suspend`);
      const answers = await Promise.all(Array.from({ length: 8 }, (_, n) => scalar(place.uri, 'select $1::int', [n])));
      expect(answers).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
      await ballast.api.settle(suspended);
    }
  });

  test('a disabled endpoint refuses with the reason, and works again when enabled', async () => {
    const child = await ballast.api.createBranch(place);
    await ballast.api.callAndSettle('PATCH', ballast.api.endpointPath(child), { endpoint: { disabled: true } });
    expect((await failureOf(() => query(child.uri, 'select 1')))?.message).toMatch(/disabled/);
    await ballast.api.callAndSettle('PATCH', ballast.api.endpointPath(child), { endpoint: { disabled: false } });
    expect(await scalar(child.uri, 'select 1')).toBe(1);
  });

  test('resizing and settings take effect', async () => {
    const child = await ballast.api.createBranch(place);
    await ballast.api.callAndSettle('PATCH', ballast.api.endpointPath(child), {
      endpoint: {
        autoscaling_limit_min_cu: 0.5,
        autoscaling_limit_max_cu: 0.5,
        settings: { pg_settings: { work_mem: '8MB' } },
      },
    });
    expect(await scalar(child.uri, 'show work_mem')).toBe('8MB');
    expect(Number(await scalar(child.uri, 'show max_connections'))).toBe(209);
  });
});

test('automatic suspension: after the timeout, not during a transaction, never with -1', async () => {
  const dozing = await ballast.api.createProject({ name: 'dozing' });
  const busy = await ballast.api.createProject({ name: 'busy' });
  const session = await connect(busy.uri);
  await session.query('begin');
  await session.query('select 1');
  await waitFor(
    'the idle compute to suspend itself',
    async () => (await ballast.api.endpointState(dozing)) === 'idle',
    {
      timeoutMs: (DEFAULT_SUSPEND_SECONDS + 20) * 1000,
      intervalMs: 200,
    },
  );
  // One that was made later has now slept its whole timeout too.
  const later = await ballast.api.createProject({ name: 'later' });
  await waitFor('the later one', async () => (await ballast.api.endpointState(later)) === 'idle', {
    timeoutMs: (DEFAULT_SUSPEND_SECONDS + 20) * 1000,
    intervalMs: 200,
  });
  expect(await ballast.api.endpointState(busy)).toBe('active');
  expect(await ballast.api.endpointState(place)).toBe('active');
  await session.query('commit');
  await session.end();
  await waitFor('the busy one, once it is free', async () => (await ballast.api.endpointState(busy)) === 'idle', {
    timeoutMs: (DEFAULT_SUSPEND_SECONDS + 20) * 1000,
    intervalMs: 200,
  });
  const { operations } = await ballast.api.call('GET', `/projects/${dozing.projectId}/operations`);
  expect(operations[0]).toMatchObject({ action: 'suspend_compute', status: 'finished' });
  expect(await scalar(dozing.uri, 'select 1')).toBe(1);
});
