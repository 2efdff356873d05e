/**
 * Copy-on-write must never leak: what a child writes does not show in its parent, and the other way round, next to the
 * root and ten branches below it, and through sleep and wake of both.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Place } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { query, scalar } from '../support/sql.ts';

const DEPTH = 10;
let ballast: Ballast;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 300_000);

afterAll(async () => {
  await ballast?.destroy();
});

const marks = async (place: Place) =>
  (await query<{ mark: string }>(place.uri, 'select mark from marks order by mark')).map((row) => row.mark);
const mark = (place: Place, text: string) => query(place.uri, 'insert into marks values ($1)', [text]);

async function writeBothWays(parent: Place, child: Place, label: string): Promise<void> {
  const shared = await marks(parent);
  expect(await marks(child)).toEqual(shared);
  await mark(child, `${label}-child`);
  await mark(parent, `${label}-parent`);
  // Large enough to touch many pages that both share.
  await query(child.uri, 'update filler set body = reverse(body)');
  expect(await marks(parent)).toEqual([...shared, `${label}-parent`].toSorted());
  expect(await marks(child)).toEqual([...shared, `${label}-child`].toSorted());
  const digest = "select md5(string_agg(body, '' order by id)) from filler";
  const before = await scalar(parent.uri, digest);
  expect(await scalar(child.uri, digest)).not.toBe(before);
  await ballast.api.suspend(child);
  await ballast.api.suspend(parent);
  expect(await marks(child)).toEqual([...shared, `${label}-child`].toSorted());
  expect(await marks(parent)).toEqual([...shared, `${label}-parent`].toSorted());
  expect(await scalar(parent.uri, digest)).toBe(before);
}

test(`writes stay on their side at depth 1 and at depth ${DEPTH}`, async () => {
  const root = await ballast.api.createProject({ name: 'isolation' });
  await query(
    root.uri,
    `create table marks (mark text primary key);
     create table filler as select id, repeat(md5(id::text), 20) as body from generate_series(1, 2000) id;
     insert into marks values ('root')`,
  );
  const first = await ballast.api.createBranch(root, { name: 'depth-1' });
  await writeBothWays(root, first, '1');

  let deepest = first;
  for (let depth = 2; depth <= DEPTH; depth++) {
    const parent = deepest;
    // Odd levels are cloned at rest, even ones while their parent runs.
    if (depth % 2 === 1) await ballast.api.suspend(parent);
    deepest = await ballast.api.createBranch(parent, { name: `depth-${depth}` });
    if (depth < DEPTH) await mark(deepest, `level-${depth}`);
    if (depth === DEPTH) await writeBothWays(parent, deepest, String(DEPTH));
  }
  expect(await marks(root)).not.toContain('1-child');
  expect(await marks(deepest)).toContain('1-child');
}, 600_000);

test('a branch of a branch that never had an endpoint holds what its grandparent had', async () => {
  const root = await ballast.api.createProject({ name: 'unstarted' });
  await query(root.uri, "create table marks (mark text); insert into marks values ('root')");
  let parentId = root.branchId;
  for (let depth = 1; depth <= 3; depth++) {
    const { branch } = await ballast.api.callAndSettle('POST', `/projects/${root.projectId}/branches`, {
      branch: { parent_id: parentId },
    });
    parentId = branch.id;
  }
  const leaf = await ballast.api.createBranch({ ...root, branchId: parentId });
  await mark(root, 'later');
  expect(await marks(leaf)).toEqual(['root']);
});
