/** When a pool opens server connections, and when it waits for one to come back. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { frame } from '../../../test/support/fake-session.ts';
import { FakeWire } from '../../../test/support/fake-wire.ts';
import { DEFAULT_POOL_LIMITS, Pool } from './pool.ts';
import { PooledClient } from './pooled-client.ts';
import { ServerConnection } from './server-connection.ts';

const OPEN_MS = 20;
const EAGER = 2;
const MAX = 6;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function world() {
  const servers: ServerConnection[] = [];
  const wires: FakeWire[] = [];
  const pool = new Pool({
    limits: { ...DEFAULT_POOL_LIMITS, eagerServers: EAGER },
    nowMs: () => Date.now(),
    open: async (owner) => {
      await new Promise((resolve) => setTimeout(resolve, OPEN_MS));
      const wire = new FakeWire();
      const server = new ServerConnection({
        wire,
        owner,
        maxStatements: 2,
        openedAtMs: Date.now(),
        onEnd: () => undefined,
      });
      servers.push(server);
      wires.push(wire);
      return server;
    },
    maxServers: () => MAX,
    makeRoom: () => false,
    isFull: () => false,
    cancel: async () => true,
    rolesChanged: () => undefined,
    errorBytes: () => Buffer.alloc(0),
    onEmpty: () => undefined,
  });
  const ask = (sql: string) => {
    const wire = new FakeWire();
    const client: PooledClient = new PooledClient(wire, pool, pool.definitions, () => pool.leave(client));
    pool.clients.add(client);
    client.receive(frame('Q', `${sql}\0`));
    return { client, wire };
  };
  /** Every query that a server connection has got is answered. */
  const answer = (status = 'I') => {
    for (const [n, wire] of wires.entries()) {
      if (wire.written.splice(0).length > 0) {
        servers[n]!.receive(Buffer.concat([frame('C', 'SELECT 1\0'), frame('Z', status)]));
      }
    }
  };
  /** At most as many rounds as anybody has questions: a pool that lends nothing must not keep the test busy for ever. */
  const answerAll = () => {
    for (let round = 0; round < 100; round += 1) answer();
    expect(pool.stats().waiting).toBe(0);
  };
  return { pool, ask, answer, answerAll };
}

test('a few are opened as soon as somebody waits, and none beyond them for those who need not wait long', async () => {
  const { pool, ask, answerAll } = world();
  const clients = Array.from({ length: 20 }, (_, n) => ask(`select ${n}`));
  expect(pool.stats()).toMatchObject({ opening: EAGER, waiting: 20 });
  await vi.advanceTimersByTimeAsync(OPEN_MS);
  // All are served before anybody's patience ends.
  answerAll();
  for (const { wire } of clients) expect(wire.written).toHaveLength(1);
  // What was begun meanwhile is still used by those who come later.
  expect(pool.stats().servers + pool.stats().opening).toBeLessThanOrEqual(EAGER + DEFAULT_POOL_LIMITS.maxOpening);
  const { servers } = pool.stats();
  for (let round = 0; round < 50; round += 1) {
    for (let n = 0; n < 5; n += 1) ask(`select ${n}`);
    answerAll();
  }
  expect(pool.stats()).toMatchObject({ waiting: 0, servers });
  pool.close(Buffer.alloc(0));
});

test('it grows to its limit when transactions last', async () => {
  const { pool, ask, answer } = world();
  for (let n = 0; n < MAX + 3; n += 1) ask('begin');
  for (let n = 0; n < 20; n += 1) {
    await vi.advanceTimersByTimeAsync(OPEN_MS);
    answer('T');
  }
  expect(pool.stats()).toMatchObject({ servers: MAX, opening: 0, idle: 0, waiting: 3 });
  pool.close(Buffer.alloc(0));
});

test('who waits alone behind a long transaction is not forgotten', async () => {
  const { pool, ask, answer } = world();
  for (let n = 0; n < EAGER; n += 1) ask('begin');
  await vi.advanceTimersByTimeAsync(OPEN_MS);
  answer('T');
  const { wire } = ask('select 1');
  expect(pool.stats()).toMatchObject({ servers: EAGER, opening: 0, waiting: 1 });
  // Its patience, and the opening.
  await vi.advanceTimersByTimeAsync(200 + OPEN_MS);
  answer();
  expect(wire.written).toHaveLength(1);
  expect(pool.stats()).toMatchObject({ servers: EAGER + 1, waiting: 0 });
  pool.close(Buffer.alloc(0));
});
