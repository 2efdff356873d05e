/**
 * Restore, reset, expiration and recovery, by the unmodified CLI and SDK, and under clients that never stop writing: no
 * committed transaction of any branch is lost but those that a restore was asked to undo, and the preserved branch has
 * these.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { raw } from '@neon/sdk';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { neonCli, neonSdk } from '../support/clients.ts';
import { judgeLedger, LedgerWriter } from '../support/ledger.ts';
import { query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 300_000);

afterAll(async () => {
  await ballast?.destroy();
});

const branchesOf = (place: Place) => `/projects/${place.projectId}/branches`;
const branchOf = (place: Place) => `${branchesOf(place)}/${place.branchId}`;
const isoOf = (us: number) =>
  `${new Date(Math.floor(us / 1000)).toISOString().slice(0, 20)}${String(us % 1_000_000).padStart(6, '0')}Z`;
/** A time between two transactions, with the milliseconds that the CLI knows: nothing commits around it. */
async function moment(place: Place): Promise<string> {
  const [row] = await query(
    place.uri,
    `select to_char((clock_timestamp() + interval '1 millisecond') at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
       as now, pg_sleep(0.01)`,
  );
  return row.now as string;
}

/** Reaches another branch of the same project, whose roles and passwords are the same. */
async function endpointOn(place: Place, branchId: string): Promise<Place> {
  const { endpoint, operations } = await ballast.api.call('POST', `/projects/${place.projectId}/endpoints`, {
    endpoint: { branch_id: branchId, type: 'read_write' },
  });
  await ballast.api.settle({ operations });
  const uri = place.uri.replaceAll(place.endpointId, endpoint.id);
  return { ...place, branchId, endpointId: endpoint.id, uri };
}

describe('neon CLI', () => {
  let main: Place;
  let dev: Place;
  let then: string;
  let lsn: string;
  const on = () => ['--project-id', main.projectId];
  const fruit = async (place: Place) =>
    (await query(place.uri, 'select name from fruit order by name')).map((row) => row.name as string);

  beforeAll(async () => {
    main = await ballast.api.createProject({ name: 'going back' });
    await query(main.uri, "create table fruit (name text); insert into fruit values ('apple')");
    dev = await ballast.api.createBranch(main, { name: 'dev' });
    await query(dev.uri, "insert into fruit values ('banana')");
    then = await moment(dev);
    lsn = String(await scalar(dev.uri, 'select pg_current_wal_flush_lsn()::text'));
    await query(dev.uri, "insert into fruit values ('cherry')");
  }, 300_000);

  test.each([
    ['a time', () => then],
    ['an LSN', () => lsn],
  ])('branches create --parent %s', async (_what, point) => {
    const args = ['branches', 'create', ...on(), '--parent', point(), '--name', `of ${point()}`];
    // The CLI means the default branch's past.
    await ballast.api.call('POST', `${branchOf(dev)}/set_as_default`);
    const created = await neonCli(ballast).json(args);
    await ballast.api.call('POST', `${branchOf(main)}/set_as_default`);
    const uri = created.connection_uris[0].connection_uri as string;
    expect(await fruit({ ...dev, uri })).toEqual(['apple', 'banana']);
    await ballast.api.idle(main.projectId);
    await ballast.api.callAndSettle('DELETE', `${branchesOf(main)}/${created.branch.id}`);
  });

  test('branches restore ^self@time, with what it had preserved', async () => {
    await neonCli(ballast).json([
      'branches',
      'restore',
      'dev',
      `^self@${then}`,
      '--preserve-under-name',
      'kept',
      ...on(),
    ]);
    expect(await fruit(dev)).toEqual(['apple', 'banana']);
    const kept = await neonCli(ballast).json(['branches', 'get', 'kept', ...on()]);
    expect(await fruit(await endpointOn(dev, kept.id))).toEqual(['apple', 'banana', 'cherry']);
    const now = await neonCli(ballast).json(['branches', 'get', 'dev', ...on()]);
    expect(now).toMatchObject({ id: dev.branchId, parent_id: kept.id, last_reset_at: expect.any(String) });
  });

  test('branches restore from another branch at a time of its own, and to its head', async () => {
    await neonCli(ballast).json(['branches', 'restore', 'dev', 'main', ...on()]);
    expect(await fruit(dev)).toEqual(['apple']);
    await neonCli(ballast).json(['branches', 'restore', 'dev', `kept@${lsn}`, ...on()]);
    expect(await fruit(dev)).toEqual(['apple', 'banana']);
  });

  test('branches reset --parent', async () => {
    await query(dev.uri, "insert into fruit values ('durian')");
    await neonCli(ballast).json(['branches', 'reset', 'dev', '--parent', ...on()]);
    expect(await fruit(dev)).toEqual(['apple', 'banana', 'cherry']);
    await ballast.api.idle(main.projectId);
    const refused = await neonCli(ballast).raw(['branches', 'reset', 'main', '--parent', ...on()]);
    expect(refused.code).not.toBe(0);
  });

  test('branches set-expiration, and the deletion itself; the branch can be had back', async () => {
    const brief = await ballast.api.createBranch(main, { name: 'brief' });
    const cli = neonCli(ballast);
    const soon = new Date(Date.now() + 6_000).toISOString();
    await cli.json(['branches', 'set-expiration', 'brief', '--expires-at', soon, ...on()]);
    expect(await fruit(brief)).toEqual(['apple']);
    await waitFor('the branch to expire', async () => {
      const { status } = await ballast.api.request('GET', branchOf(brief));
      return status === 404;
    });
    const { branches } = await ballast.api.call('GET', `${branchesOf(main)}?include_deleted=true&search=brief`);
    expect(branches).toMatchObject([{ recovery: { deletion_method: 'ttl' } }]);
    await ballast.api.call('POST', `${branchOf(brief)}/recover`);
    expect(await fruit(brief)).toEqual(['apple']);
  }, 300_000);
});

test('@neon/sdk restores a branch and waits for it', async () => {
  const main = await ballast.api.createProject({ name: 'by sdk' });
  const dev = await ballast.api.createBranch(main);
  await query(dev.uri, 'create table scratch (n int)');
  const path = { project_id: main.projectId, branch_id: dev.branchId };
  const { data } = await raw.restoreProjectBranch({
    client: neonSdk(ballast).client,
    path,
    body: { source_branch_id: main.branchId, preserve_under_name: 'scratched' },
  });
  expect(data!.branch).toMatchObject({ id: dev.branchId, current_state: 'resetting', parent_id: main.branchId });
  await ballast.api.settle(data as never);
  expect(await scalar(dev.uri, "select to_regclass('scratch')::text")).toBeNull();
  const kept = await ballast.api.call('GET', `${branchesOf(main)}?search=scratched`);
  const there = await endpointOn(dev, kept.branches[0].id);
  expect(await scalar(there.uri, "select to_regclass('scratch')::text")).toBe('scratch');
});

test('passwords: the restored branch has those of its data, a reset child of a protected parent keeps its own', async () => {
  const main = await ballast.api.createProject({ name: 'passwords' });
  const dev = await ballast.api.createBranch(main);
  const then = await moment(dev);
  const changed = await ballast.api.callAndSettle('POST', `${branchOf(dev)}/roles/${dev.role}/reset_password`);
  const newUri = dev.uri.replace(dev.password, changed.role.password);
  expect(await scalar(newUri, 'select 1')).toBe(1);
  await ballast.api.callAndSettle('POST', `${branchOf(dev)}/restore`, {
    source_branch_id: dev.branchId,
    source_timestamp: then,
    preserve_under_name: 'with the new password',
  });
  expect(await scalar(dev.uri, 'select 2')).toBe(2);
  await expect(scalar(newUri, 'select 1')).rejects.toThrow(/password authentication failed/);
  await ballast.api.call('PATCH', branchOf(main), { branch: { protected: true } });
  const guarded = await ballast.api.createBranch(main);
  const reveal = `${branchOf(guarded)}/roles/${main.role}/reveal_password`;
  const own = (await ballast.api.call('GET', reveal)).password as string;
  expect(own).not.toBe(main.password);
  await ballast.api.callAndSettle('POST', `${branchOf(guarded)}/reset_to_parent`);
  const withOwn = main.uri.replaceAll(main.endpointId, guarded.endpointId).replace(main.password, own);
  expect(await scalar(withOwn, 'select 3')).toBe(3);
  await expect(scalar(withOwn.replace(own, main.password), 'select 1')).rejects.toThrow(/password authentication/);
});

const ROUNDS = 8;
/** The writer leaves 4 ms between two commits: a time this much after one is before the next. */
const AFTER_US = 1_000;

test(`${ROUNDS} restores and resets under clients that never stop writing`, async () => {
  const main = await ballast.api.createProject({ name: 'under load' });
  const steady = await LedgerWriter.start(main.uri);
  const dev = await ballast.api.createBranch(main, { name: 'dev' });
  let asOfMain = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const writer = await LedgerWriter.start(dev.uri);
    await pause(400 + Math.random() * 400);
    await waitFor('some commits', async () => writer.commits.length > 0);
    const name = `before ${round}`;
    const self = round % 2 === 0;
    const wanted = self ? writer.commits[Math.floor(Math.random() * writer.commits.length)]! : undefined;
    // Resets to where main stands while main goes on.
    const source = self
      ? { source_branch_id: dev.branchId, source_timestamp: isoOf(wanted!.atUs + AFTER_US) }
      : { source_branch_id: main.branchId };
    const before = steady.last;
    const answer = await ballast.api.callAndSettle('POST', `${branchOf(dev)}/restore`, {
      ...source,
      preserve_under_name: name,
    });
    await waitFor('the writer to lose its session', async () => writer.lost !== undefined);
    await writer.stop();
    if (self) expect(await judgeLedger(dev.uri, wanted!.n, wanted!.n)).toBe(wanted!.n);
    else asOfMain = await judgeLedger(dev.uri, before, steady.last + 1);
    expect(asOfMain).toBeLessThanOrEqual(steady.last + 1);
    const { branches } = await ballast.api.call('GET', `${branchesOf(main)}?search=${encodeURIComponent(name)}`);
    expect(branches).toHaveLength(1);
    const kept = await endpointOn(dev, branches[0].id);
    await judgeLedger(kept.uri, writer.last, writer.last + 1);
    expect(answer.branch.parent_id).toBe(self ? kept.branchId : main.branchId);
    await ballast.api.suspend(kept);
  }
  expect(steady.lost).toBeUndefined();
  const last = steady.last;
  await steady.stop();
  await judgeLedger(main.uri, last, last + 1);
}, 600_000);
