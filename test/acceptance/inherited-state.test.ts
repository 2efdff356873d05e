/**
 * A clone must not act in its parent's name: a parent with a logical slot, an enabled subscription and a publication is
 * branched, at rest and running. No child takes changes that were meant for the parent, none pins WAL, and the parent's
 * own replication goes on.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { query, scalar } from '../support/sql.ts';
import { waitFor } from '../support/wait.ts';

let ballast: Ballast;
let source: Place;
let parent: Place;

const LOGICAL = { settings: { enable_logical_replication: true } };
const rows = async (place: Place) =>
  (await query<{ n: number }>(place.uri, 'select n from feed order by n')).map((row) => row.n);

beforeAll(async () => {
  ballast = await Ballast.boot();
  source = await ballast.api.createProject({ name: 'source', ...LOGICAL });
  parent = await ballast.api.createProject({ name: 'parent', ...LOGICAL });
  await query(source.uri, 'create table feed (n int primary key); create publication p for table feed');
  await query(parent.uri, 'create table feed (n int primary key); create table own (n int)');
  const connection = `host=127.0.0.1 port=${ballast.pgPort} user=${source.role} password=${source.password} dbname=${source.database} options='endpoint=${source.endpointId}'`;
  await query(parent.uri, `create subscription s connection '${connection.replaceAll("'", "''")}' publication p`);
  await query(parent.uri, "select pg_create_logical_replication_slot('held', 'test_decoding')");
  await query(source.uri, 'insert into feed values (1)');
  await waitFor('the first change to arrive', async () => (await rows(parent)).includes(1));
}, 600_000);

afterAll(async () => {
  await ballast?.destroy();
});

async function expectClean(child: Place): Promise<void> {
  expect(await rows(child)).toContain(1);
  expect(await query(child.uri, 'select slot_name from pg_replication_slots')).toEqual([]);
  expect(await query(child.uri, 'select subname from pg_stat_subscription where pid is not null')).toEqual([]);
  expect(await scalar(child.uri, 'select count(*)::int from pg_publication')).toBe(0);
}

test.each(['running', 'at rest'])('a child of a parent %s steals nothing and pins nothing', async (state) => {
  if (state === 'at rest') await ballast.api.suspend(parent);
  const child = await ballast.api.createBranch(parent, { name: `child ${state}` });
  await expectClean(child);
  const before = Math.max(...(await rows(parent)));
  for (let n = before + 1; n <= before + 20; n++) await query(source.uri, 'insert into feed values ($1)', [n]);
  await waitFor('the parent to have every change', async () => (await rows(parent)).length === before + 20);
  expect(Math.max(...(await rows(child)))).toBeLessThanOrEqual(before);
  // Still so after it slept and woke, when nothing holds a launcher back any more.
  await ballast.api.suspend(child);
  await expectClean(child);
  expect(Math.max(...(await rows(child)))).toBeLessThanOrEqual(before);
  // A child of the child is as clean.
  const grandchild = await ballast.api.createBranch(child, { name: `grandchild ${state}` });
  await expectClean(grandchild);
});

test('the parent keeps its own slot and subscription', async () => {
  const slots = await query(parent.uri, 'select slot_name::text from pg_replication_slots');
  expect(slots.map((row) => row.slot_name)).toContain('held');
  await query(parent.uri, 'insert into own values (1)');
  const changes = await query(parent.uri, "select data from pg_logical_slot_peek_changes('held', null, null)");
  expect(changes.some((row) => String(row.data).includes('own'))).toBe(true);
});

test('a child may replicate in its own right', async () => {
  const child = await ballast.api.createBranch(parent, { name: 'own right' });
  await query(child.uri, "select pg_create_logical_replication_slot('mine', 'test_decoding')");
  await query(child.uri, 'insert into own values (2)');
  const changes = await query(child.uri, "select data from pg_logical_slot_peek_changes('mine', null, null)");
  expect(changes.length).toBeGreaterThan(0);
});
