/**
 * Two hundred API calls at once, on one project and on fifty: no deadlock, no answer of 5xx, no lost operation, and
 * every mutation that was accepted has its effect.
 */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Operation } from '@neon/sdk/raw';
import type { Place, Reply } from '../support/api.ts';
import { Ballast } from '../support/ballast.ts';
import { query } from '../support/sql.ts';
import { inParallel } from '../support/wait.ts';

const CALLS = 200;
const PROJECTS = 50;
let ballast: Ballast;

beforeAll(async () => {
  ballast = await Ballast.boot();
}, 150_000);

afterAll(async () => {
  await ballast?.destroy();
});

/** Sends everything at once; every answer must come and be below 500. */
async function burst(requests: readonly [method: string, path: string, body?: unknown][]): Promise<Reply<any>[]> {
  const replies = await Promise.all(requests.map(([method, path, body]) => ballast.api.request(method, path, body)));
  const broken = replies.flatMap((reply, index) =>
    reply.status >= 500 ? [`${requests[index]!.slice(0, 2).join(' ')}: ${reply.text}`] : [],
  );
  expect(broken).toEqual([]);
  return replies;
}

/** Every operation that was promised must exist and have ended well. Asks seldom: the machine has other work. */
async function settleAll(replies: readonly Reply<any>[]): Promise<void> {
  const promised = replies.flatMap((reply): Operation[] => (reply.status < 300 ? (reply.body?.operations ?? []) : []));
  expect(promised.length).toBeGreaterThan(0);
  const ended = new Map<string, Operation>();
  for (const projectId of new Set(promised.map((operation) => operation.project_id))) {
    await ballast.api.idle(projectId, 150_000, 250);
    const { operations } = await ballast.api.call('GET', `/projects/${projectId}/operations?limit=1000`);
    for (const operation of operations as Operation[]) ended.set(operation.id, operation);
  }
  const bad = promised.flatMap(({ id, action }) => {
    const { status = 'lost', error = '' } = ended.get(id) ?? {};
    return ['finished', 'skipped'].includes(status) ? [] : [`${action} ${status} ${error}`];
  });
  expect(bad).toEqual([]);
}

test(`${CALLS} calls at once on one project`, async () => {
  const place = await ballast.api.createProject({ name: 'crowded' });
  const project = `/projects/${place.projectId}`;
  const branch = `${project}/branches/${place.branchId}`;
  const endpoint = ballast.api.endpointPath(place);
  const requests: [string, string, unknown?][] = [];
  for (let n = 0; n < CALLS / 10; n++) {
    requests.push(
      ['POST', `${project}/branches`, { branch: { name: `b${n}` } }],
      ['POST', `${branch}/roles`, { role: { name: `role_${n}` } }],
      ['POST', `${branch}/databases`, { database: { name: `db_${n}`, owner_name: place.role } }],
      ['GET', project],
      ['GET', `${project}/branches`],
      ['GET', `${project}/operations`],
      ['PATCH', project, { project: { name: `crowded ${n}` } }],
      ['GET', `${branch}/roles`],
      n % 4 === 0 ? ['POST', `${endpoint}/suspend`] : n % 4 === 1 ? ['POST', `${endpoint}/start`] : ['GET', endpoint],
      ['POST', `${branch}/roles/${place.role}/reset_password`],
    );
  }
  expect(requests).toHaveLength(CALLS);
  const replies = await burst(requests);
  await settleAll(replies);
  await ballast.api.idle(place.projectId);

  const accepted = (index: number) =>
    requests.flatMap((request, at) => (at % 10 === index && replies[at]!.status === 201 ? [request[2] as any] : []));
  expect(accepted(0)).toHaveLength(CALLS / 10);
  const { branches } = await ballast.api.call('GET', `${project}/branches?limit=1000`);
  expect(branches.map((item: { name: string }) => item.name)).toEqual(
    expect.arrayContaining(accepted(0).map((body) => body.branch.name)),
  );
  const password = (await ballast.api.call('GET', `${branch}/roles/${place.role}/reveal_password`)).password as string;
  const uri = ballast.uri({ ...place, password });
  const roles = (await query(uri, 'select rolname::text as name from pg_roles')).map((row) => row.name);
  expect(roles).toEqual(expect.arrayContaining(accepted(1).map((body) => body.role.name)));
  const databases = (await query(uri, 'select datname::text as name from pg_database')).map((row) => row.name);
  expect(databases).toEqual(expect.arrayContaining(accepted(2).map((body) => body.database.name)));
  await ballast.api.call('DELETE', project);
});

test(`${CALLS} calls at once on ${PROJECTS} projects`, async () => {
  const created = await burst(
    Array.from({ length: PROJECTS }, (_, n) => ['POST', '/projects', { project: { name: `many ${n}` } }]),
  );
  expect(new Set(created.map((reply) => reply.status))).toEqual(new Set([201]));
  await settleAll(created);
  const places = created.map((reply) => reply.body);
  const requests: [string, string, unknown?][] = [];
  for (const { project, branch, endpoints } of places) {
    requests.push(
      ['POST', `/projects/${project.id}/branches`, { branch: { name: 'second' } }],
      ['POST', `/projects/${project.id}/branches/${branch.id}/roles`, { role: { name: 'second' } }],
      ['POST', `/projects/${project.id}/endpoints/${endpoints[0].id}/suspend`],
      ['GET', `/projects/${project.id}`],
    );
  }
  expect(requests).toHaveLength(CALLS);
  const replies = await burst(requests);
  await settleAll(replies);
  const ids = new Set<string>();
  await inParallel(
    10,
    places.map(({ project }) => async () => {
      await ballast.api.idle(project.id);
      const { branches } = await ballast.api.call('GET', `/projects/${project.id}/branches`);
      expect(branches.map((item: { name: string }) => item.name).toSorted()).toEqual(['main', 'second']);
      ids.add(project.id);
    }),
  );
  expect(ids.size).toBe(PROJECTS);
  const deleted = await burst(places.map(({ project }): [string, string] => ['DELETE', `/projects/${project.id}`]));
  expect(new Set(deleted.map((reply) => reply.status))).toEqual(new Set([200]));
});

test('twenty clients that connect at once to a sleeping compute wake it once', async () => {
  const place: Place = await ballast.api.createProject({ name: 'single flight' });
  await ballast.api.suspend(place);
  const answers = await Promise.all(Array.from({ length: 20 }, () => query(place.uri, 'select 1 as one')));
  expect(answers).toEqual(Array.from({ length: 20 }, () => [{ one: 1 }]));
  const { operations } = await ballast.api.call('GET', `/projects/${place.projectId}/operations?limit=1000`);
  const starts = operations.filter((operation: Operation) => operation.action === 'start_compute');
  // One at creation, one for the twenty.
  expect(starts).toHaveLength(2);
});
