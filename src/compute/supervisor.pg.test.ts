import { access, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TestEngine } from '../../test/support/computes.ts';
import { TEST_PASSWORD, connectAs, openTestEngine, testMajors, testVerifier } from '../../test/support/computes.ts';
import { readPostmaster, startServer } from '../postgres/server.ts';
import { sandboxLauncher } from './sandbox.ts';
import type { ComputeChange } from './types.ts';

let engine: TestEngine;
let major: number;
let counter = 0;
beforeAll(async () => {
  major = (await testMajors()).at(-1)!;
  engine = await openTestEngine();
});
afterAll(() => engine.close());

/** A fresh timeline and the spec of its endpoint. */
async function fresh(options: Parameters<TestEngine['storage']['create']>[2] & { overrides?: object } = {}) {
  const spec = engine.spec(`ep-test-${++counter}`, major, options.overrides);
  await engine.storage.create(spec.timeline, major, options);
  return spec;
}

async function someRole(name = 'alice'): Promise<ComputeChange> {
  return { kind: 'create_role', name, verifier: await testVerifier(), noLogin: false };
}

const dataDirectory = (spec: { timeline: { projectId: string; timelineId: string } }) =>
  engine.storage.dataDirectory(spec.timeline);

async function alive(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

async function value(client: pg.Client, sql: string): Promise<unknown> {
  const result = await client.query({ text: sql, rowMode: 'array' });
  return (result.rows[0] as unknown[] | undefined)?.[0];
}

describe('start', () => {
  test('returns an address that a role of the changes can use; again, it is the same compute', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, [
      await someRole(),
      { kind: 'create_database', name: 'shop', owner: 'alice' },
    ]);
    const client = await connectAs(address, 'alice', 'shop');
    expect(await value(client, 'select current_user')).toBe('alice');
    await client.query('create table t (x int)');
    await client.end();
    const pid = (await readPostmaster(dataDirectory(spec)))!.pid;
    expect(await engine.supervisor.start(spec, [])).toEqual(address);
    expect((await readPostmaster(dataDirectory(spec)))!.pid).toBe(pid);
    expect(engine.supervisor.address(spec.endpointId)).toEqual(address);
  });

  test('another size restarts it with other settings and the same data', async () => {
    const spec = await fresh();
    const first = await engine.supervisor.start(spec, [await someRole()]);
    const before = await connectAs(first, 'alice');
    expect(await value(before, 'show max_connections')).toBe('104');
    const second = await engine.supervisor.start({ ...spec, maxCu: 1 }, []);
    expect(second.socketDirectory).not.toBe(first.socketDirectory);
    const after = await connectAs(second, 'alice');
    expect(await value(after, 'show max_connections')).toBe('419');
    await after.end();
  });

  test('a timeline that does not exist is not found', async () => {
    await expect(engine.supervisor.start(engine.spec('ep-none', major), [])).rejects.toMatchObject({
      kind: 'not_found',
    });
  });

  test('a setting that Postgres refuses is named, without a path, and nothing stays behind', async () => {
    const spec = await fresh({ overrides: { pgSettings: { work_mem: 'lots' } } });
    const failure = await engine.supervisor.start(spec, []).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(failure).toMatchObject({ kind: 'unprocessable', message: expect.stringMatching(/work_mem/) });
    expect(String(failure)).not.toMatch(/postgresql\.conf|\/run\//);
    expect(engine.supervisor.address(spec.endpointId)).toBeUndefined();
    expect(await alive(path.join(engine.home.run, 'computes', spec.endpointId))).toBe(false);
    const good = await engine.supervisor.start({ ...spec, pgSettings: { work_mem: '7MB' } }, [await someRole()]);
    const client = await connectAs(good, 'alice');
    expect(await value(client, 'show work_mem')).toBe('7MB');
    await client.end();
  });

  test('a Postgres that no record knows does not stand in the way', async () => {
    const spec = await fresh();
    const stray = await startServer({
      installation: await engine.installations.get(major),
      dataDirectory: dataDirectory(spec),
      owner: spec.owner,
      args: ['-c', `unix_socket_directories=${dataDirectory(spec)}`],
      logFile: path.join(engine.home.log, 'stray.log'),
      readyWithinMs: 10_000,
    });
    const client = await connectAs(await engine.supervisor.start(spec, [await someRole()]), 'alice');
    await client.end();
    await stray.exited;
  });

  test('many at once, each on its own timeline', async () => {
    const specs = await Promise.all([1, 2, 3, 4].map(() => fresh()));
    const addresses = await Promise.all(specs.map((spec) => engine.supervisor.start(spec, [])));
    expect(new Set(addresses.map((address) => address.socketDirectory)).size).toBe(4);
    await Promise.all(specs.map((spec) => engine.supervisor.suspend(spec.endpointId)));
  });
});

describe('first start of a clone', () => {
  test('promote: recovery is recorded as finished before the address is given', async () => {
    const parent = await fresh();
    await engine.supervisor.start(parent, [await someRole()]);
    await engine.supervisor.suspend(parent.endpointId);
    const child = await fresh({ from: parent.timeline, recovery: 'promote' });
    const address = await engine.supervisor.start(child, []);
    expect(engine.storage.finished).toContain(child.timeline.timelineId);
    const client = await connectAs(address, 'alice');
    expect(await value(client, 'select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)')).toBe('00000002');
    await client.end();
  });

  test('replay: clients find fsync on, and the record says none', async () => {
    const parent = await fresh();
    await engine.supervisor.start(parent, [await someRole()]);
    await engine.supervisor.suspend(parent.endpointId);
    const child = await fresh({ from: parent.timeline, recovery: 'replay' });
    const address = await engine.supervisor.start(child, []);
    const client = await connectAs(address, 'alice');
    expect(await value(client, 'show fsync')).toBe('on');
    expect(await value(client, 'show hot_standby')).toBe('off');
    await client.end();
    expect((await engine.storage.readTimeline(child.timeline))!.recovery).toBe('none');
  });

  test('inherited subscriptions are gone, in every database, and new ones have workers', async ({ skip }) => {
    if (major < 16) skip('tenants cannot create subscriptions before Postgres 16');
    const parent = await fresh();
    const start = [await someRole(), { kind: 'create_database', name: 'shop', owner: 'alice' } as const];
    const address = await engine.supervisor.start(parent, start);
    for (const database of ['postgres', 'shop']) {
      const client = await connectAs(address, 'alice', database);
      if (database === 'postgres') await client.end();
      else {
        await client.query(
          `create subscription s connection 'host=/nonexistent password=x' publication p
           with (connect = false, slot_name = 'its_slot')`,
        );
        await client.end();
      }
    }
    await engine.supervisor.suspend(parent.endpointId);
    const child = await fresh({ from: parent.timeline, recovery: 'replay', suspectSubscriptions: true });
    const there = await connectAs(await engine.supervisor.start(child, []), 'alice', 'shop');
    expect(await value(there, 'select count(*)::int from pg_subscription')).toBe(0);
    expect(await value(there, 'show max_logical_replication_workers')).toBe('4');
    await there.end();
  });
});

describe('suspend', () => {
  test('stops cleanly, twice without complaint, and leaves nothing but the log', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, []);
    await engine.supervisor.suspend(spec.endpointId);
    await engine.supervisor.suspend(spec.endpointId);
    expect(engine.supervisor.address(spec.endpointId)).toBeUndefined();
    expect(await alive(path.join(dataDirectory(spec), 'postmaster.pid'))).toBe(false);
    expect(await alive(address.socketDirectory)).toBe(false);
    expect(await readFile(path.join(engine.home.log, 'computes', `${spec.endpointId}.log`), 'utf8')).toMatch(
      /shut down/,
    );
  });

  test('a client sees 57P01', async () => {
    const spec = await fresh();
    const client = await connectAs(await engine.supervisor.start(spec, [await someRole()]), 'alice');
    const ended = client.query('select pg_sleep(60)').catch((error: unknown) => error);
    await engine.supervisor.suspend(spec.endpointId);
    expect(await ended).toMatchObject({ code: '57P01' });
  });

  test('a shutdown that hangs holds up neither others nor, in the end, itself', async () => {
    const hung = await fresh();
    const supervisor = engine.anotherSupervisor({ fastStopWithinMs: 1000 });
    await supervisor.start(hung, []);
    const { pid } = (await readPostmaster(dataDirectory(hung)))!;
    process.kill(pid, 'SIGSTOP');
    try {
      const suspending = supervisor.suspend(hung.endpointId);
      const other = await fresh();
      await engine.supervisor.start(other, []);
      await engine.supervisor.suspend(other.endpointId);
      expect(await alive(path.join(dataDirectory(hung), 'postmaster.pid'))).toBe(true);
      await suspending;
    } finally {
      try {
        process.kill(pid, 'SIGCONT');
      } catch {
        // It is gone, as it should be.
      }
    }
    await supervisor.start(hung, []);
    await supervisor.suspend(hung.endpointId);
  });
});

describe('adoption', () => {
  test('a compute that outlived Ballast is taken over as it is', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, [await someRole()]);
    const client = await connectAs(address, 'alice');
    const after = engine.anotherSupervisor();
    expect(await after.adopt()).toContain(spec.endpointId);
    expect(after.address(spec.endpointId)).toEqual(address);
    expect(await after.start(spec, [])).toEqual(address);
    expect(await value(client, 'select 1')).toBe(1);
    await client.end();
    const ended = new Promise<string>((resolve) => after.onExit(resolve));
    process.kill((await readPostmaster(dataDirectory(spec)))!.pid, 'SIGQUIT');
    expect(await ended).toBe(spec.endpointId);
    expect(after.address(spec.endpointId)).toBeUndefined();
  });

  test('a compute that was not ready for clients is stopped, and one without a record too', async () => {
    const early = await fresh();
    const unknown = await fresh();
    await engine.supervisor.start(early, []);
    await engine.supervisor.start(unknown, []);
    const recordOf = (endpointId: string) => path.join(engine.home.run, 'computes', endpointId, 'record.json');
    const record = await readFile(recordOf(early.endpointId), 'utf8');
    await writeFile(recordOf(early.endpointId), record.replace('"ready":true', '"ready":false'));
    await rm(recordOf(unknown.endpointId));
    const adopted = await engine.anotherSupervisor().adopt();
    for (const spec of [early, unknown]) {
      expect(adopted).not.toContain(spec.endpointId);
      expect(await alive(path.join(dataDirectory(spec), 'postmaster.pid'))).toBe(false);
      await expect.poll(() => engine.supervisor.address(spec.endpointId)).toBeUndefined();
    }
  });

  test('records of computes that are gone are forgotten, their sockets too', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, []);
    const { pid } = (await readPostmaster(dataDirectory(spec)))!;
    process.kill(pid, 'SIGKILL');
    await expect.poll(() => alive(`/proc/${pid}/exe`)).toBe(false);
    const after = engine.anotherSupervisor();
    expect(await after.adopt()).not.toContain(spec.endpointId);
    expect(await alive(address.socketDirectory)).toBe(false);
  });
});

describe('while it runs', () => {
  test('an exit that nobody asked for is told once, and a start brings it back', async () => {
    const spec = await fresh();
    await engine.supervisor.start(spec, [await someRole()]);
    const told: string[] = [];
    engine.supervisor.onExit((endpointId) => told.push(endpointId));
    process.kill((await readPostmaster(dataDirectory(spec)))!.pid, 'SIGQUIT');
    await expect.poll(() => told).toContain(spec.endpointId);
    expect(engine.supervisor.address(spec.endpointId)).toBeUndefined();
    const client = await connectAs(await engine.supervisor.start(spec, []), 'alice');
    await client.end();
    await engine.supervisor.suspend(spec.endpointId);
    expect(told.filter((endpointId) => endpointId === spec.endpointId)).toHaveLength(1);
  });

  test('a crash of one backend keeps the address', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, [await someRole()]);
    const client = await connectAs(address, 'alice');
    const pid = (await value(client, 'select pg_backend_pid()')) as number;
    process.kill(pid, 'SIGKILL');
    await expect
      .poll(
        async () => {
          const again = await connectAs(address, 'alice').catch(() => undefined);
          const answer = again && (await value(again, 'select 1'));
          await again?.end();
          return answer;
        },
        { timeout: 60_000 },
      )
      .toBe(1);
  });

  test('the socket cannot be found from within', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, [await someRole()]);
    const client = await connectAs(address, 'alice');
    const known = (await value(client, 'show unix_socket_directories')) as string;
    expect(await alive(known)).toBe(false);
    if (engine.owner) {
      expect((await stat(address.socketDirectory)).uid).toBe(0);
      expect((await stat(address.socketDirectory)).mode & 0o777).toBe(0o700);
    }
    await client.end();
  });

  test('no secret and no statement in log, configuration and arguments', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, [await someRole()]);
    const client = await connectAs(address, 'alice');
    await client.query(`alter role alice password 'open sesame'; select 1/0`).catch(() => undefined);
    await client.query(`alter role alice password 'open sesame' nonsense`).catch(() => undefined);
    await client.query(`select cast('open sesame' as int)`).catch(() => undefined);
    await client.end();
    const { pid } = (await readPostmaster(dataDirectory(spec)))!;
    const configuration = path.join(engine.home.run, 'computes', spec.endpointId);
    const texts = await Promise.all([
      readFile(path.join(engine.home.log, 'computes', `${spec.endpointId}.log`), 'utf8'),
      readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''),
      readFile(`/proc/${pid}/environ`, 'utf8').catch(() => ''),
      ...(await readdir(configuration)).map((file) => readFile(path.join(configuration, file), 'utf8')),
    ]);
    for (const text of texts) {
      expect(text).not.toContain(engine.secret);
      expect(text).not.toContain(TEST_PASSWORD);
      expect(text).not.toMatch(/alter role/i);
    }
  });
});

test.skipIf(sandboxLauncher().length === 0)('it can gain no privileges (needs setpriv)', async () => {
  const spec = await fresh();
  await engine.supervisor.start(spec, []);
  const { pid } = (await readPostmaster(dataDirectory(spec)))!;
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  if (spec.owner) expect(status).toMatch(new RegExp(`^Uid:(\\t${spec.owner.uid}){4}$`, 'm'));
});

describe('activity', () => {
  test('busy while a transaction is open, idle afterwards, and silent once nobody is connected', async () => {
    const spec = await fresh();
    const address = await engine.supervisor.start(spec, [await someRole()]);
    engine.supervisor.noteConnections(spec.endpointId, 1);
    const client = await connectAs(address, 'alice');
    await client.query('begin');
    expect(await engine.supervisor.activity(spec.endpointId)).toMatchObject({ busy: true, idleMs: 0 });
    const busyUntilMs = performance.now();
    await client.query('commit');
    await sleep(60);
    const idle = (await engine.supervisor.activity(spec.endpointId))!;
    expect(idle.busy).toBe(false);
    expect(idle.idleMs).toBeGreaterThanOrEqual(50);
    expect(idle.idleMs).toBeLessThan(performance.now() - busyUntilMs + 1_000);
    expect(idle.fingerprint).toBe((await engine.supervisor.rolesAndDatabases(spec.endpointId)).fingerprint);
    await client.query(`create role by_sql login`);
    expect((await engine.supervisor.activity(spec.endpointId))!.fingerprint).not.toBe(idle.fingerprint);
    await client.end();
    engine.supervisor.noteConnections(spec.endpointId, 0);
    await engine.supervisor.activity(spec.endpointId);
    const last = (await engine.supervisor.activity(spec.endpointId))!;
    await sleep(30);
    expect((await engine.supervisor.activity(spec.endpointId))!.idleMs).toBeGreaterThan(last.idleMs);
  });

  test('nothing is known of a compute that does not run', async () => {
    expect(await engine.supervisor.activity('ep-none')).toBeUndefined();
    await expect(engine.supervisor.applyChanges('ep-none', [])).rejects.toMatchObject({ kind: 'not_found' });
    await expect(engine.supervisor.rolesAndDatabases('ep-none')).rejects.toMatchObject({ kind: 'not_found' });
  });
});
