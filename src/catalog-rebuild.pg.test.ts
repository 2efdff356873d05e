/**
 * What a rebuild makes of descriptions and timelines that do not fit together. Whole losses: test/acceptance/disaster.test.ts.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { insertBranch, insertProject } from '../test/support/catalog-rows.ts';
import { openTestCatalog, type TestCatalog } from '../test/support/catalog.ts';
import { describeProject, projectTables, type ProjectDescription } from './catalog/descriptions.ts';
import { insertJwks, listJwks } from './catalog/jwks.ts';
import { rebuild } from './catalog-rebuild.ts';
import { readConfig } from './config.ts';
import { newSnapshotId, newUuid } from './lib/ids.ts';
import type { TimelineRecord } from './storage/types.ts';

let before: TestCatalog;
let after: TestCatalog;
let directory: string;
let descriptions: Map<string, string>;
let timelines: TimelineRecord[];

beforeEach(async () => {
  [before, after] = [await openTestCatalog(), await openTestCatalog()];
  directory = await mkdtemp(`${os.tmpdir()}/ballast-rebuild-`);
  [descriptions, timelines] = [new Map(), []];
});
afterEach(async () => {
  await before.close();
  await after.close();
  await rm(directory, { recursive: true });
});

function timeline(projectId: string, timelineId: string, record: Partial<TimelineRecord> = {}): void {
  timelines.push({
    formatVersion: 1,
    kind: 'branch',
    projectId,
    timelineId,
    pgVersion: 17,
    systemIdentifier: '1',
    parentTimelineId: null,
    branchLsn: null,
    branchTimestamp: null,
    recovery: 'none',
    suspectSubscriptions: false,
    createdAt: '2026-01-16T20:53:56.123456Z',
    ...record,
  } as TimelineRecord);
}

async function makeProject() {
  const { projectId } = await insertProject(before.catalog);
  const root = await insertBranch(before.catalog, projectId);
  const child = await insertBranch(before.catalog, projectId, { parentId: root.branchId });
  await before.catalog.query('update branches set is_default = true where id = $1', [root.branchId]);
  for (const { branchId } of [root, child]) timeline(projectId, branchId);
  return { projectId, root: root.branchId, child: child.branchId };
}

async function describe(projectId: string, change: (description: ProjectDescription) => void = () => undefined) {
  const description = JSON.parse(
    (await describeProject(before.catalog, projectId, await projectTables(before.catalog)))!,
  ) as ProjectDescription;
  change(description);
  descriptions.set(projectId, JSON.stringify(description));
}

function run() {
  const storage = {
    listTimelines: async () => ({ timelines, garbage: [] }),
    projectDescription: async (projectId: string) => descriptions.get(projectId),
    dataDirectory: () => directory,
  };
  return rebuild({ config: readConfig({ dataDir: directory }, {}), nodeId: 'node-test', storage }, after.catalog);
}

const rows = <Row>(sql: string) => after.catalog.query<Row>(sql);

test('a project that cannot be written costs no other one', async () => {
  const [good, bad] = [await makeProject(), await makeProject()];
  await describe(good.projectId);
  await describe(bad.projectId, ({ project }) => (project['pg_version'] = 3));
  const { projects, problems } = await run();
  expect(projects.map(({ id }) => id)).toEqual([good.projectId]);
  expect(problems).toEqual([expect.stringContaining(`project ${bad.projectId} is not back: `)]);
  expect(await rows('select id from projects')).toEqual([{ id: good.projectId }]);
});

test('organizations and users keep their ids, also where a start had made others meanwhile', async () => {
  const { projectId } = await makeProject();
  await describe(projectId);
  await insertProject(after.catalog);
  await after.catalog.query('delete from projects');
  await run();
  const [want] = await before.catalog.query('select org_id, owner_id from projects');
  expect(await rows('select org_id, owner_id from projects')).toEqual([want]);
  expect(await rows('select count(*) as organizations from organizations')).toEqual([{ organizations: 1 }]);
});

test('whose JWTs may log in is remembered', async () => {
  const { projectId, root } = await makeProject();
  for (const branchId of [null, root]) {
    const url = 'https://keys.example.com/jwks.json';
    await insertJwks(before.catalog, {
      ...{ id: newUuid(), projectId, branchId, jwksUrl: url, providerName: 'example', jwtAudience: null },
      roleNames: ['authenticated', 'Büro'],
    });
  }
  await describe(projectId);
  await run();
  const wanted = await listJwks(before.catalog, projectId);
  expect(wanted).toHaveLength(2);
  expect(await listJwks(after.catalog, projectId)).toEqual(wanted);
});

test('a description of an earlier release lacks columns, and may have others', async () => {
  const { projectId, root } = await makeProject();
  await before.catalog.query(
    `insert into roles (project_id, branch_id, name, state) values ($1, $2, 'owner', 'ready')`,
    [projectId, root],
  );
  await describe(projectId, ({ tables }) => {
    for (const role of tables['roles']!) {
      delete role['plain'];
      role['forgotten'] = true;
    }
  });
  const { problems } = await run();
  expect(problems).toEqual([]);
  expect(await rows('select name, plain from roles')).toEqual([{ name: 'owner', plain: false }]);
});

test('a description that names nobody belongs to the owner', async () => {
  const { projectId } = await makeProject();
  await describe(projectId, (description) => delete description.people);
  const { problems } = await run();
  expect(problems).toEqual([]);
  expect(
    await rows('select o.handle like $$default-%$$ as made from projects p join organizations o on o.id = p.org_id'),
  ) //
    .toEqual([{ made: true }]);
});

test('another branch takes the place of a default branch whose data is gone', async () => {
  const { projectId, root, child } = await makeProject();
  await describe(projectId);
  timelines = timelines.filter(({ timelineId }) => timelineId !== root);
  const { problems } = await run();
  expect(problems).toEqual([
    expect.stringContaining(`(${root}) is gone`),
    expect.stringContaining(`its default branch is "${child}"`),
  ]);
  expect(
    await rows('select id, is_default, deleted_at is not null as deleted from branches order by is_default'),
  ).toEqual([
    { id: root, isDefault: false, deleted: true },
    { id: child, isDefault: true, deleted: false },
  ]);
});

test('a snapshot whose data was there before its operation ended is ready', async () => {
  const { projectId, root } = await makeProject();
  const id = newSnapshotId();
  await before.catalog.query(
    `insert into snapshots (id, project_id, source_branch_id, timeline_id, name, manual) values ($1, $2, $3, $1, 's', true)`,
    [id, projectId, root],
  );
  timeline(projectId, id, { kind: 'snapshot', parentTimelineId: root });
  await describe(projectId);
  expect((await run()).problems).toEqual([]);
  expect(await rows('select id, state from snapshots')).toEqual([{ id, state: 'ready' }]);
});

test("copies and standbys are nobody's branches", async () => {
  const { projectId, root } = await makeProject();
  timeline(projectId, 'verify-0123', { kind: 'copy', parentTimelineId: root });
  timeline(projectId, 'ep-standby', { kind: 'standby', parentTimelineId: root });
  await describe(projectId);
  expect((await run()).problems).toEqual([]);
  expect(await rows('select count(*) as branches from branches')).toEqual([{ branches: 2 }]);
});
