/**
 * Snapshots with the unmodified SDK and CLI: of running and sleeping branches, at the head, an LSN and a time; restored
 * beside and in the place of their source under clients that never stop writing; expiry, schedule, and survival of the
 * source and of a killed Ballast.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { childPlace, type Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { neonCli, neonSdk } from '../support/clients.ts';
import { judgeLedger, LedgerWriter } from '../support/ledger.ts';
import { connect, query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 300_000);

afterAll(async () => {
  await ballast?.destroy();
});

const numbers = async (uri: string) =>
  (await query<{ n: number }>(uri, 'select n from t order by n')).map(({ n }) => n);
const snapshotPath = (place: Place) => `/projects/${place.projectId}/branches/${place.branchId}/snapshot`;
const restorePath = (place: Place, id: string) => `/projects/${place.projectId}/snapshots/${id}/restore`;
const branchOf = async (place: Place, id: string) =>
  (await ballast.api.call('GET', `/projects/${place.projectId}/branches/${id}`)).branch;
const settled = (place: Place, id: string) =>
  waitFor('the snapshot', async () => {
    const { snapshots } = await ballast.api.call('GET', `/projects/${place.projectId}/snapshots`);
    const found = snapshots.find((snapshot: { id: string }) => snapshot.id === id);
    return found?.lsn !== undefined && found;
  });

/** A compute for a branch that was restored from a snapshot; roles and passwords are those of the source. */
async function wakeable(source: Place, branchId: string): Promise<Place> {
  const created = await ballast.api.callAndSettle('POST', `/projects/${source.projectId}/endpoints`, {
    endpoint: { branch_id: branchId, type: 'read_write' },
  });
  return childPlace(source, {
    branch: { id: branchId },
    endpoints: [created.endpoint],
  } as never);
}

/** What a snapshot holds, by a preview branch. */
async function held(source: Place, snapshotId: string): Promise<number[]> {
  const { branch } = await ballast.api.callAndSettle('POST', restorePath(source, snapshotId), {});
  const preview = await wakeable(source, branch.id);
  const rows = await numbers(uriOf(source, preview));
  await ballast.api.callAndSettle('DELETE', `/projects/${source.projectId}/branches/${branch.id}`);
  return rows;
}
function uriOf(source: Place, place: Pick<Place, 'endpointId'>): string {
  return ballast.uri({ ...source, endpointId: place.endpointId });
}

test('at the head, an LSN and a time, of a running and of a sleeping branch', async () => {
  const place = await ballast.api.createProject({ name: 'points' });
  await query(place.uri, 'create table t (n int primary key)');
  await query(place.uri, 'insert into t values (1)');
  const lsn = await scalar(place.uri, 'select pg_current_wal_flush_lsn()::text');
  await query(place.uri, 'insert into t values (2)');
  const time = await scalar(
    place.uri,
    `select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`,
  );
  await pause(50);
  await query(place.uri, 'insert into t values (3)');
  const queries = ['', `?lsn=${lsn}`, `?timestamp=${time}`];
  const taken: string[] = [];
  for (const state of ['running', 'sleeping']) {
    if (state === 'sleeping') await ballast.api.callAndSettle('POST', `${ballast.api.endpointPath(place)}/suspend`);
    for (const text of queries) {
      const { snapshot } = await ballast.api.callAndSettle('POST', snapshotPath(place) + text);
      taken.push(snapshot.id);
    }
  }
  // What comes later is in none of them.
  await query(place.uri, 'insert into t values (4)');
  for (const [index, id] of taken.entries()) {
    expect(await held(place, id), queries[index % 3]).toEqual([[1, 2, 3], [1], [1, 2]][index % 3]);
  }
  const [snapshot] = (await ballast.api.call('GET', `/projects/${place.projectId}/snapshots`)).snapshots;
  expect(snapshot.full_size).toBeGreaterThan(5_000_000);
  // What it holds alone is known where the file system tells; clones share nearly everything.
  if (snapshot.diff_size !== undefined) expect(snapshot.diff_size).toBeLessThanOrEqual(snapshot.full_size * 2);
  expect(await numbers(place.uri)).toEqual([1, 2, 3, 4]);
}, 600_000);

describe('restored in the place of its source', () => {
  test('under a client that never stops: the host stays, the old branch has every commit', async () => {
    const place = await ballast.api.createProject({ name: 'rollback' });
    const writer = await LedgerWriter.start(place.uri);
    await waitFor('commits', async () => writer.last >= 20);
    const atLeast = writer.last;
    const { snapshot } = await ballast.api.callAndSettle('POST', snapshotPath(place));
    const atMost = writer.last + 1;
    await waitFor('more commits', async () => writer.last >= atMost + 20);
    const idle = await connect(place.uri);
    const cut = new Promise<void>((resolve) => void idle.once('end', resolve));
    const answer = await ballast.api.callAndSettle('POST', restorePath(place, snapshot.id), { finalize_restore: true });
    // Both the client that wrote and the one that waited were cut, and find the restored data at the same host.
    await cut;
    await waitFor('the writer to be cut', async () => writer.lost !== undefined);
    const acknowledged = writer.last;
    await writer.stop();
    await judgeLedger(place.uri, atLeast, atMost);
    expect(await branchOf(place, answer.branch.id)).toMatchObject({
      name: 'main',
      default: true,
      restored_from: snapshot.id,
      restored_as: place.branchId,
      restore_status: 'finalized',
    });
    expect(await branchOf(place, place.branchId)).toMatchObject({ name: 'main (old)', default: false });
    await query(place.uri, 'insert into ledger (n) select max(n) + 1 from ledger');
    const old = await wakeable(place, place.branchId);
    await judgeLedger(uriOf(place, old), acknowledged, acknowledged + 1);
  }, 600_000);

  test('a password that was changed since is the old one again', async () => {
    const place = await ballast.api.createProject({ name: 'passwords' });
    const { snapshot } = await ballast.api.callAndSettle('POST', snapshotPath(place));
    const { role } = await ballast.api.callAndSettle(
      'POST',
      `/projects/${place.projectId}/branches/${place.branchId}/roles/${place.role}/reset_password`,
    );
    expect(await scalar(ballast.uri({ ...place, password: role.password }), 'select 1')).toBe(1);
    await ballast.api.callAndSettle('POST', restorePath(place, snapshot.id), { finalize_restore: true });
    expect(await scalar(ballast.uri(place), 'select 1')).toBe(1);
    await expect(scalar(ballast.uri({ ...place, password: role.password }), 'select 1')).rejects.toThrow(
      /password authentication failed/,
    );
  }, 300_000);

  test('kill -9 in the middle of it, again and again', async () => {
    const place = await ballast.api.createProject({ name: 'killed' });
    await query(place.uri, 'create table t (n int primary key)');
    await query(place.uri, 'insert into t values (1)');
    const { snapshot } = await ballast.api.callAndSettle('POST', snapshotPath(place));
    let target = place.branchId;
    for (const waitMs of [0, 20, 60, 120, 250]) {
      await query(place.uri, 'insert into t values (2)');
      const { branch } = await ballast.api.call('POST', restorePath(place, snapshot.id), {
        target_branch_id: target,
        finalize_restore: true,
      });
      await pause(waitMs);
      await ballast.kill9();
      await ballast.start();
      await ballast.api.idle(place.projectId);
      expect(await numbers(place.uri), `killed after ${waitMs} ms`).toEqual([1]);
      expect(await branchOf(place, branch.id)).toMatchObject({ name: 'main', default: true, current_state: 'ready' });
      target = branch.id;
    }
    const old = await wakeable(place, place.branchId);
    expect(await numbers(uriOf(place, old))).toEqual([1, 2]);
  }, 600_000);
});

test('survives its source; expires with its data', async () => {
  const place = await ballast.api.createProject({ name: 'outlives' });
  await query(place.uri, 'create table t (n int primary key)');
  await query(place.uri, 'insert into t values (1)');
  const { snapshot } = await ballast.api.callAndSettle('POST', snapshotPath(place));
  const { branch } = await ballast.api.callAndSettle('POST', restorePath(place, snapshot.id), {
    finalize_restore: true,
  });
  // The source is a root that is not the default any more.
  await ballast.api.callAndSettle('DELETE', `/projects/${place.projectId}/branches/${place.branchId}?hard_delete=true`);
  await waitFor('its data to be gone', async () => {
    const directories = await ballast.timelineDirectories();
    return !directories.includes(`${place.projectId}/${place.branchId}`);
  });
  await query(place.uri, 'insert into t values (2)');
  expect(await held(place, snapshot.id)).toEqual([1]);
  expect(await numbers(place.uri)).toEqual([1, 2]);
  expect(branch.name).toBe('main');
  await ballast.api.call('PATCH', `/projects/${place.projectId}/snapshots/${snapshot.id}`, {
    snapshot: { expires_at: new Date(Date.now() + 1_500).toISOString() },
  });
  await waitFor(
    'the snapshot to expire',
    async () => {
      const { snapshots } = await ballast.api.call('GET', `/projects/${place.projectId}/snapshots`);
      const directories = await ballast.timelineDirectories();
      return snapshots.length === 0 && !directories.includes(`${place.projectId}/${snapshot.id}`);
    },
    { timeoutMs: 90_000 },
  );
  expect(await numbers(place.uri)).toEqual([1, 2]);
}, 600_000);

test('@neon/sdk: create, list, update, restore with a preview and at once, delete', async () => {
  const place = await ballast.api.createProject({ name: 'sdk' });
  const neon = neonSdk(ballast);
  const { projectId, branchId } = place;
  await query(place.uri, 'create table t (n int primary key)');
  await query(place.uri, 'insert into t values (7)');
  const snapshot = await neon.snapshots.create({ projectId, branchId, name: 'by sdk' });
  expect(snapshot).toMatchObject({ name: 'by sdk', source_branch_id: branchId, manual: true });
  const snapshotId = snapshot.id;
  const expiresAt = '2099-01-01T00:00:00Z';
  expect(await neon.snapshots.update({ projectId, snapshotId, expiresAt })).toMatchObject({ expires_at: expiresAt });
  expect(await neon.snapshots.update({ projectId, snapshotId, expiresAt: null })).not.toHaveProperty('expires_at');
  await settled(place, snapshotId);
  const [listed] = await neon.snapshots.list({ projectId });
  expect(listed).toMatchObject({ id: snapshotId, lsn: expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/) });
  await query(place.uri, 'insert into t values (8)');
  // Looked at first, and given up.
  const looked: number[] = [];
  await neon.snapshots
    .restore({
      projectId,
      snapshotId,
      finalize: true,
      preview: async ({ id }) => {
        looked.push(...(await numbers(uriOf(place, await wakeable(place, id)))));
        return false;
      },
    })
    .catch(() => undefined);
  expect(looked).toEqual([7]);
  expect(await numbers(place.uri)).toEqual([7, 8]);
  await neon.snapshots.restore({ projectId, snapshotId, finalize: true, targetBranchId: branchId });
  await ballast.api.idle(projectId);
  expect(await numbers(place.uri)).toEqual([7]);
  expect(await branchOf(place, branchId)).toMatchObject({ name: 'main (old)' });
  await neon.snapshots.delete({ projectId, snapshotId });
  expect(await neon.snapshots.list({ projectId })).toEqual([]);
}, 300_000);

test('the CLI: create, list, get, update, restore, finalize, schedule, delete', async () => {
  const place = await ballast.api.createProject({ name: 'cli' });
  const cli = neonCli(ballast);
  const project = ['--project-id', place.projectId];
  await query(place.uri, 'create table t (n int primary key)');
  await query(place.uri, 'insert into t values (5)');
  const made = await cli.json(['snapshots', 'create', '--branch', 'main', '--name', 'nightly', ...project]);
  expect(made).toMatchObject({ name: 'nightly', source_branch_id: place.branchId });
  await settled(place, made.id);
  expect(await cli.json(['snapshots', 'list', ...project])).toMatchObject([{ id: made.id }]);
  const update = ['snapshots', 'update', 'nightly', '--name', 'kept', '--expires-at', '2099-01-01T00:00:00Z'];
  expect(await cli.json([...update, ...project])).toMatchObject({ name: 'kept', expires_at: '2099-01-01T00:00:00Z' });
  expect((await cli.json(['snapshots', 'get', 'kept', ...project])).id).toBe(made.id);
  await query(place.uri, 'insert into t values (6)');
  const restored = await cli.json(['snapshots', 'restore', 'kept', '--name', 'preview', ...project]);
  const branch = restored.branch ?? restored['restored branch'] ?? restored;
  await ballast.api.idle(place.projectId);
  await cli.json(['snapshots', 'finalize', 'preview', '--name', 'before', ...project]);
  await ballast.api.idle(place.projectId);
  expect(await numbers(place.uri)).toEqual([5]);
  expect(await branchOf(place, place.branchId)).toMatchObject({ name: 'before' });
  expect(branch).toBeDefined();
  const set = ['snapshots', 'schedule', 'set', '--branch', 'main', '--frequency', 'daily', '--hour', '3'];
  await cli.json([...set, '--retention', '604800', ...project]);
  expect(await cli.json(['snapshots', 'schedule', 'get', '--branch', 'main', ...project])).toEqual([
    { frequency: 'daily', hour: 3, retention_seconds: 604_800 },
  ]);
  await cli.json(['snapshots', 'delete', 'kept', ...project]);
  expect(await cli.json(['snapshots', 'list', ...project])).toEqual([]);
}, 600_000);
