import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { insertBranch, insertProject, type TestBranch } from '../../test/support/catalog-rows.ts';
import { waitFor } from '../../test/support/wait.ts';
import { openTestCatalog, type TestCatalog } from '../../test/support/catalog.ts';
import { createFakeEngine, type FakeEngine } from '../../test/support/fake-engine.ts';
import { makeTestOperations, type TestOperations } from '../../test/support/operations.ts';
import type { Queryable } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { newEndpointId } from '../lib/ids.ts';
import { silentLogger } from '../lib/log.ts';
import type { HistoryWindow } from '../lib/point.ts';
import type { OperationQueue } from '../operations/types.ts';
import {
  createProxyAccess,
  ENDPOINT_DISABLED,
  ENDPOINT_NOT_FOUND,
  type ProxyAccessWithCaches,
} from './proxy-access.ts';
import type { ProxyEndpoint } from './proxy-access.types.ts';

const logger = silentLogger();
const VERIFIER = 'SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy';
let db: TestCatalog;
let engine: FakeEngine;
let queue: OperationQueue;
let work: TestOperations;
let access: ProxyAccessWithCaches;
let branch: TestBranch;
/** What stands between proxy-access and the catalog. */
let catalogIsAway = false;
let catalogHangs = false;
let queries = 0;
let refreshes = 0;
let refreshFails = false;
/** How the past was asked for. */
let reached: { past: object; query: object; window: HistoryWindow }[] = [];
let pastOpen: [timelineId: string, open: number][] = [];

const signal = () => AbortSignal.timeout(60_000);
const operations = () =>
  db.catalog.query<{ action: string; status: string }>(
    'select action, status from operations where branch_id = $1 order by seq',
    [branch.branchId],
  );
/** A wake returns a moment before its operation has ended. */
const endedOperations = () =>
  waitFor('all operations to end', async () => {
    const rows = await operations();
    return rows.every((row) => row.status !== 'running' && row.status !== 'scheduling') && rows;
  });
const away = () => Promise.reject(new AppError('unavailable', 'away'));

beforeAll(async () => {
  db = await openTestCatalog();
});
afterAll(() => db.close());
beforeEach(async () => {
  [reached, pastOpen] = [[], []];
  [catalogIsAway, catalogHangs, queries, refreshes, refreshFails] = [false, false, 0, 0, false];
  engine = createFakeEngine();
  work = makeTestOperations({ catalog: db.catalog, engine, onEnded: (row) => access.invalidate(row.projectId) });
  ({ queue } = work);
  const { supervisor } = engine;
  access = createProxyAccess({
    queue,
    logger,
    catalog: {
      query: (...args: Parameters<Queryable['query']>) => {
        queries += 1;
        if (catalogHangs) return new Promise(() => undefined);
        return catalogIsAway ? away() : (db.catalog.query(...args) as never);
      },
      transaction: (...args) => (catalogIsAway ? away() : db.catalog.transaction(...args)),
    },
    compute: {
      address: (endpointId) => supervisor.address(endpointId),
      onceStarted: (endpointId, listener) => {
        supervisor.onStart((started) => {
          if (started === endpointId) listener();
        });
        return () => undefined;
      },
      noteConnections: () => undefined,
      maxConnections: (minCu, maxCu) => 400 * Math.min(maxCu, 8 * minCu),
      refreshRoles: async () => {
        refreshes += 1;
        await new Promise((resolve) => setTimeout(resolve, 5));
        if (refreshFails) throw new AppError('unavailable', 'away');
        return true;
      },
      past: {
        reach: async (past, query, window) => {
          reached.push({ past, query, window });
          return { socketDirectory: '/sockets/past', port: 5432 };
        },
        noteConnections: ({ timelineId }, open) => void pastOpen.push([timelineId, open]),
      },
    },
  });
  await work.runner.start();
  const { projectId } = await insertProject(db.catalog);
  branch = await insertBranch(db.catalog, projectId);
  engine.timelines.set(branch.branchId, {} as never);
  await db.catalog.query('insert into roles (project_id, branch_id, name, verifier) values ($1, $2, $3, $4)', [
    projectId,
    branch.branchId,
    'owner',
    VERIFIER,
  ]);
});
afterEach(() => work.stop());

describe('other endpoints of a branch', () => {
  const replica = async (): Promise<string> => {
    const id = newEndpointId();
    await db.catalog.query(
      `insert into endpoints (id, project_id, branch_id, type, current_state, autoscaling_limit_min_cu, autoscaling_limit_max_cu,
         suspend_timeout_seconds, region_id) values ($1, $2, $3, 'read_only', 'idle', 0.25, 0.25, 0, 'local')`,
      [id, branch.projectId, branch.branchId],
    );
    return id;
  };

  test('a branch id stands for its read-write endpoint, a type for the one of it', async () => {
    expect(await access.endpoint(branch.branchId)).toEqual(await known());
    expect(await access.endpoint(branch.endpointId, { type: 'read_only' })).toBeUndefined();
    const id = await replica();
    expect(await access.endpoint(branch.branchId, { type: 'read_only' })).toMatchObject({ endpointId: id });
    expect(await access.endpoint(id, { type: 'read_only' })).toMatchObject({ endpointId: id });
    expect(await access.endpoint(id, { type: 'read_write' })).toEqual(await known());
    expect(await access.endpoint('br-none-such-12345678')).toBeUndefined();
  });

  test('roles of a replica are compared where they are changed', async () => {
    const id = await replica();
    const endpoint = (await access.endpoint(id))!;
    expect(endpoint.readWriteEndpointId).toBe(branch.endpointId);
    expect(await access.refreshVerifiers(endpoint)).toBe(false);
    await access.wake(await known(), { signal: AbortSignal.timeout(60_000) });
    await access.refreshVerifiers(endpoint);
    expect(refreshes).toBe(1);
  });

  test('a point in the past is reached in the data that the branch has now', async () => {
    const point = { kind: 'lsn', lsn: '0/16B3748' } as const;
    await db.catalog.query(`update branches set timeline_id = 'tl-restored' where id = $1`, [branch.branchId]);
    const signal = AbortSignal.timeout(60_000);
    for (const name of [branch.branchId, branch.endpointId]) {
      const endpoint = (await access.endpoint(name, { point }))!;
      expect(endpoint).toMatchObject({ endpointId: branch.branchId, branchId: branch.branchId, point });
      access.noteConnections(endpoint, 1);
      expect(await access.wake(endpoint, { signal })).toEqual({ path: '/sockets/past/.s.PGSQL.5432' });
    }
    const { projectId } = branch;
    expect(reached[0]).toMatchObject({
      past: { projectId, timelineId: 'tl-restored', pgVersion: 17, size: { minCu: 0.25, maxCu: 0.25 } },
      query: point,
    });
    const { window } = reached[0]!;
    expect(window.nowMs - window.startMs).toBe(86_400_000);
    expect(pastOpen).toContainEqual(['tl-restored', 1]);
    expect(await operations()).toEqual([]);
  });

  test('a disabled endpoint has no past, a deleted branch none', async () => {
    const point = { kind: 'lsn', lsn: '0/16B3748' } as const;
    await db.catalog.query('update endpoints set disabled = true where id = $1', [branch.endpointId]);
    expect(await access.endpoint(branch.endpointId, { point })).toMatchObject({ disabled: true });
    await db.catalog.query('update branches set deleted_at = now() where id = $1', [branch.branchId]);
    access.invalidate(branch.projectId);
    expect(await access.endpoint(branch.endpointId, { point })).toBeUndefined();
  });
});

const known = async (): Promise<ProxyEndpoint> => (await access.endpoint(branch.endpointId))!;

describe('endpoint and verifier', () => {
  test('tell what the rows say, and nothing of what is deleted or unknown', async () => {
    const { endpointId, projectId, branchId } = branch;
    expect(await known()).toEqual({
      endpointId,
      projectId,
      branchId,
      disabled: false,
      allowedIps: [],
      blockPublicConnections: false,
      maxConnections: expect.any(Number) as number,
      jwks: [],
    });
    expect(await access.verifier(await known(), 'owner')).toBe(VERIFIER);
    expect(await access.verifier(await known(), 'nobody')).toBeUndefined();
    expect(await access.endpoint('ep-none-such-12345678')).toBeUndefined();
    await db.catalog.query('update projects set deleted_at = now() where id = $1', [projectId]);
    access.invalidate(projectId);
    expect(await access.endpoint(endpointId)).toBeUndefined();
  });

  test.each([
    ['a role without login', 'no_login = true'],
    ['a role without password', 'verifier = null'],
    ['a role with an md5 password', `verifier = 'md5abc'`],
    ['a role that is being deleted', `state = 'deleting'`],
  ])('%s has no verifier', async (_what, change) => {
    await db.catalog.query(`update roles set ${change} where branch_id = $1`, [branch.branchId]);
    expect(await access.verifier(await known(), 'owner')).toBeUndefined();
  });

  test('address rules come with the endpoint; those for protected branches only with those', async () => {
    const settings = {
      allowed_ips: { ips: ['10.0.0.0/8'], protected_branches_only: true },
      block_public_connections: true,
    };
    await db.catalog.query('update projects set settings = $2 where id = $1', [branch.projectId, settings]);
    expect(await known()).toMatchObject({ allowedIps: [], blockPublicConnections: true });
    await db.catalog.query('update branches set protected = true where id = $1', [branch.branchId]);
    access.invalidate(branch.projectId);
    expect(await known()).toMatchObject({ allowedIps: ['10.0.0.0/8'] });
  });

  test('answers come from memory until something changes', async () => {
    await access.verifier(await known(), 'owner');
    const before = queries;
    for (let index = 0; index < 50; index += 1) await access.verifier(await known(), 'owner');
    expect(queries).toBe(before);
    await db.catalog.query(`update roles set verifier = verifier || 'x' where branch_id = $1`, [branch.branchId]);
    access.invalidate(branch.projectId);
    expect(await access.verifier(await known(), 'owner')).toBe(`${VERIFIER}x`);
    expect(queries).toBe(before + 2);
  });

  test('while the catalog is away, what was known is still served, however old', async () => {
    await access.verifier(await known(), 'owner');
    access.invalidate(branch.projectId);
    catalogIsAway = true;
    expect(await access.verifier(await known(), 'owner')).toBe(VERIFIER);
    await expect(access.verifier(await known(), 'stranger')).rejects.toMatchObject({ kind: 'unavailable' });
    engine.computes.set(branch.endpointId, { timeline: branch } as never);
    expect(await access.wake(await known(), { signal: signal() })).toEqual({
      path: `/sockets/${branch.endpointId}/.s.PGSQL.5432`,
    });
  });

  test('a catalog that hangs is as good as away', async () => {
    await access.verifier(await known(), 'owner');
    access.invalidate(branch.projectId);
    catalogHangs = true;
    expect(await access.verifier(await known(), 'owner')).toBe(VERIFIER);
  });
});

describe('refreshVerifiers', () => {
  test('runs once a second per endpoint and leaves a sleeping compute asleep', async () => {
    expect(await access.refreshVerifiers(await known())).toBe(false);
    expect(refreshes).toBe(0);
    engine.computes.set(branch.endpointId, { timeline: branch } as never);
    const endpoint = await known();
    expect(await Promise.all(Array.from({ length: 20 }, () => access.refreshVerifiers(endpoint)))).toEqual(
      Array.from({ length: 20 }, () => true),
    );
    expect(refreshes).toBe(1);
  });
});

describe('refreshVerifiers and time', () => {
  test('an answer that began before the question does not do for a fresh one', async () => {
    engine.computes.set(branch.endpointId, { timeline: branch } as never);
    const endpoint = await known();
    const first = access.refreshVerifiers(endpoint);
    const fresh = Promise.all([
      access.refreshVerifiers(endpoint, { fresh: true }),
      access.refreshVerifiers(endpoint, { fresh: true }),
    ]);
    await Promise.all([first, fresh]);
    expect(refreshes).toBe(2);
    await access.refreshVerifiers(endpoint, { fresh: true });
    expect(refreshes).toBe(3);
  });

  test('one that fails leaves the login to what is known', async () => {
    engine.computes.set(branch.endpointId, { timeline: branch } as never);
    refreshFails = true;
    expect(await access.refreshVerifiers(await known())).toBe(false);
  });
});

describe('wake', () => {
  test('does not wait for the record of a start, only for the compute', async () => {
    const endpoint = await known();
    let finish!: () => void;
    // What follows the start in its operation hangs.
    engine.fault = (call) =>
      call.startsWith('rolesAndDatabases') ? new Promise<void>((resolve) => (finish = resolve)) : undefined;
    await db.catalog.query('update endpoints set started_at = null where id = $1', [branch.endpointId]);
    expect(await access.wake(endpoint, { signal: signal() })).toEqual({
      path: expect.stringContaining('.s.PGSQL.') as unknown,
      woken: true,
    });
    finish();
  });

  test('five hundred clients start one compute once', async () => {
    const endpoint = await known();
    const addresses = await Promise.all(Array.from({ length: 500 }, () => access.wake(endpoint, { signal: signal() })));
    expect(new Set(addresses.map((address) => address.path)).size).toBe(1);
    expect(await endedOperations()).toEqual([{ action: 'start_compute', status: 'finished' }]);
    queries = 0;
    await access.wake(endpoint, { signal: signal() });
    expect(queries).toBe(0);
  });

  test('shows that it is on its way', async () => {
    let release!: () => void;
    const held = new Promise<void>((resolve) => (release = resolve));
    engine.fault = (call) => (call.startsWith('start') ? held : undefined);
    const waking = access.wake(await known(), { signal: signal() });
    const pending = () =>
      db.catalog.query('select current_state, pending_state from endpoints where id = $1', [branch.endpointId]);
    await expect.poll(pending).toEqual([{ currentState: 'idle', pendingState: 'active' }]);
    release();
    await waking;
    await expect.poll(pending).toEqual([{ currentState: 'active', pendingState: null }]);
  });

  test('joins a start that the API appended, and waits behind a suspend', async () => {
    await db.catalog.transaction((tx) => queue.append(tx, [{ ...branch, action: 'start_compute' }]));
    queue.poke();
    await access.wake(await known(), { signal: signal() });
    expect(await operations()).toHaveLength(1);
    let release!: () => void;
    const held = new Promise<void>((resolve) => (release = resolve));
    engine.fault = async (call) => {
      if (!call.startsWith('suspend')) return;
      engine.computes.delete(branch.endpointId);
      await held;
    };
    await db.catalog.transaction((tx) => queue.append(tx, [{ ...branch, action: 'suspend_compute' }]));
    queue.poke();
    await expect.poll(() => engine.supervisor.address(branch.endpointId)).toBeUndefined();
    const waking = access.wake(await known(), { signal: signal() });
    await expect
      .poll(async () => (await operations()).map((row) => row.action))
      .toEqual(['start_compute', 'suspend_compute', 'start_compute']);
    release();
    expect(await waking).toBeDefined();
  });

  test('an address that refused is started anew, once', async () => {
    engine.computes.set(branch.endpointId, { timeline: branch } as never);
    const stale = await access.wake(await known(), { signal: signal() });
    expect(await operations()).toEqual([]);
    expect(await access.wake(await known(), { signal: signal(), stale })).toEqual({ ...stale, woken: true });
    expect(await endedOperations()).toEqual([{ action: 'start_compute', status: 'finished' }]);
  });

  test('a disabled endpoint is refused, also when it was disabled a moment ago elsewhere', async () => {
    const before = await known();
    await db.catalog.query('update endpoints set disabled = true where id = $1', [branch.endpointId]);
    await expect(access.wake(before, { signal: signal() })).rejects.toThrow(ENDPOINT_DISABLED);
    access.invalidate(branch.projectId);
    await expect(access.wake(await known(), { signal: signal() })).rejects.toThrow(ENDPOINT_DISABLED);
    expect(await operations()).toEqual([]);
  });

  test('an endpoint that was deleted meanwhile is not found', async () => {
    const before = await known();
    await db.catalog.query('update branches set deleted_at = now() where id = $1', [branch.branchId]);
    await expect(access.wake(before, { signal: signal() })).rejects.toThrow(ENDPOINT_NOT_FOUND);
  });

  test('a start that fails says why', async () => {
    engine.fault = (call) => {
      if (call.startsWith('start')) throw new AppError('unprocessable', 'a setting is refused');
    };
    await expect(access.wake(await known(), { signal: signal() })).rejects.toThrow(
      "Couldn't connect to compute node: a setting is refused",
    );
    engine.fault = () => undefined;
    await access.wake(await known(), { signal: signal() });
  });

  test('one client that gives up does not stop the others', async () => {
    let release!: () => void;
    const held = new Promise<void>((resolve) => (release = resolve));
    engine.fault = (call) => (call.startsWith('start') ? held : undefined);
    const endpoint = await known();
    const patient = access.wake(endpoint, { signal: signal() });
    await expect(access.wake(endpoint, { signal: AbortSignal.timeout(50) })).rejects.toThrow(/timeout/i);
    release();
    expect(await patient).toBeDefined();
  });

  test('says nothing of the inside when the catalog is away', async () => {
    const endpoint = await known();
    catalogIsAway = true;
    await expect(access.wake(endpoint, { signal: signal() })).rejects.toThrow(/^Control plane request failed$/);
  });
});
