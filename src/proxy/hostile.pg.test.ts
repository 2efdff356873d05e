/**
 * Clients that mean harm, or have lost their mind: the proxy survives them, serves the others meanwhile, and keeps
 * nothing of them. What one says at random comes from a seed, which the title names.
 */
import { readdir } from 'node:fs/promises';
import net from 'node:net';
import type { Socket } from 'node:net';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startPlainPostgres } from '../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../test/support/plain-postgres.ts';
import { endpointNamed, rawClient, startTestProxy } from '../../test/support/proxy.ts';
import type { TestProxy } from '../../test/support/proxy.ts';
import { waitFor } from '../../test/support/wait.ts';
import { errorMessage } from '../lib/errors.ts';
import { startupMessage } from '../postgres/wire/startup.ts';

const SEED = Number(process.env['BALLAST_TEST_SEED'] ?? 20_261_128);
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
const GSS_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 48]);
const TERMINATE = Buffer.from([0x58, 0, 0, 0, 4]);
const STARTUP = startupMessage([
  ['user', 'me'],
  ['options', 'endpoint=ep-test'],
]);

let postgres: PlainPostgres;
let proxy: TestProxy;
/** The same with little patience, for those who never get in. */
let impatient: TestProxy;

beforeAll(async () => {
  postgres = await startPlainPostgres();
  await postgres.query(`create role me login password 'right'`);
  proxy = await startTestProxy({
    wake: postgres.socketPath,
    limits: {
      handshakeTimeoutMs: 10_000,
      maxUnauthenticated: 60,
      httpHeadTimeoutMs: 3_000,
      httpRequestTimeoutMs: 5_000,
      httpIdleTimeoutMs: 5_000,
      maxSqlRequestBytes: 100_000,
    },
  });
  impatient = await startTestProxy({
    wake: postgres.socketPath,
    limits: { handshakeTimeoutMs: 1_000, httpHeadTimeoutMs: 500, httpRequestTimeoutMs: 1_000 },
  });
  proxy.endpoints.set('ep-pooled', endpointNamed('ep-pooled'));
  const [role] = await postgres.query<{ rolpassword: string }>(
    `select rolpassword from pg_authid where rolname = 'me'`,
  );
  for (const { verifiers } of [proxy, impatient]) verifiers.set('me', role!.rolpassword);
});
afterAll(async () => {
  await proxy?.close();
  await impatient?.close();
  await postgres?.stop();
});

/** From another address than those who mean harm, on Linux all of 127/8 is there. */
async function connect(options = 'endpoint=ep-test'): Promise<pg.Client> {
  const stream = new net.Socket();
  const client = new pg.Client({
    user: 'me',
    password: 'right',
    database: 'postgres',
    options,
    ssl: false,
    port: proxy.proxy.port,
    host: '127.0.0.1',
    stream: () => fromAddress(stream, process.platform === 'linux' ? '127.0.0.2' : '127.0.0.1'),
  });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}

/** pg says host and port only. */
function fromAddress(stream: Socket, localAddress: string): Socket {
  const connectTo = stream.connect.bind(stream) as (options: net.TcpSocketConnectOpts) => Socket;
  stream.connect = ((port: number, host: string) => connectTo({ port, host, localAddress })) as Socket['connect'];
  return stream;
}

async function serves(): Promise<void> {
  const client = await connect();
  expect((await client.query('select 6 * 7 as answer')).rows).toEqual([{ answer: 42 }]);
  await client.end();
}

const calm = () =>
  waitFor(
    'every one of them to be gone',
    async () => {
      const { unauthenticated, sessions, cancelKeys } = proxy.proxy.stats();
      return unauthenticated === 0 && sessions === 0 && cancelKeys === 0;
    },
    { timeoutMs: 60_000 },
  );

/** Open file descriptors of this process, where the system tells. */
const openFiles = async (): Promise<number> => (await readdir('/proc/self/fd').catch(() => [])).length;

/** Numbers below `below`, the same for the same seed (mulberry32). */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** What a hostile client says, in pieces. */
function hostileWords(random: (below: number) => number): Buffer[] {
  const noise = (size: number) => Buffer.from(Array.from({ length: size }, () => random(256)));
  const lied = (bytes: Buffer) => {
    const copy = Buffer.from(bytes);
    copy.writeUInt32BE(random(2 ** 32), 0);
    return copy;
  };
  const kinds: (() => Buffer[])[] = [
    () => [noise(1 + random(400))],
    () => [STARTUP.subarray(0, random(STARTUP.length))],
    () => [lied(STARTUP)],
    () => [SSL_REQUEST, noise(1 + random(300))],
    () => Array.from({ length: 1 + random(30) }, () => SSL_REQUEST),
    () => Array.from({ length: 1 + random(30) }, () => (random(2) ? GSS_REQUEST : SSL_REQUEST)),
    () => [Buffer.from([0x16, 3, 1, random(64), random(256), 1]), noise(random(500))],
    () => [STARTUP, Buffer.concat([Buffer.from([0x70]), lied(Buffer.alloc(4)), noise(random(100))])],
    () => [STARTUP, noise(1 + random(100))],
    () => [STARTUP, TERMINATE],
    () => [Buffer.from([0, 0, 0, 16, 4, 210, 22, 46]), noise(8)],
    () => [Buffer.from(['GET', 'POST', 'PRI', 'A'][random(4)]! + ' /sql HTTP/1.1\r\n'), noise(random(200))],
    () => [Buffer.from('POST /sql HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{'), noise(random(99))],
    () => [
      Buffer.from('GET /v2 HTTP/1.1\r\nhost: ep-test.localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n'),
      noise(20),
    ],
  ];
  return kinds[random(kinds.length)]!();
}

async function offend(random: (below: number) => number): Promise<void> {
  const client = await rawClient(proxy.proxy.port);
  for (const piece of hostileWords(random)) {
    if (client.socket.destroyed) break;
    client.socket.write(piece);
    if (random(3) === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  const leave = random(12);
  if (leave === 0) client.socket.resetAndDestroy();
  else if (leave < 11) client.socket.end();
  // The others stay until they are thrown out.
  await client.closed;
}

test(`two hundred hostile clients (BALLAST_TEST_SEED=${SEED}) are outlived, and others are served meanwhile`, async () => {
  await serves();
  await calm();
  const before = await openFiles();
  const random = randomNumbers(SEED);
  let served = 0;
  const all = Promise.all(
    Array.from({ length: 20 }, async () => {
      for (let i = 0; i < 10; i += 1) await offend(random).catch(() => undefined);
    }),
  );
  let over = false;
  const ended = all.finally(() => (over = true));
  do {
    await serves();
    served += 1;
  } while (!over);
  await ended;
  expect(served).toBeGreaterThan(0);
  await calm();
  await waitFor('their descriptors to be closed', async () => (await openFiles()) <= before, { timeoutMs: 60_000 });
  await serves();
}, 120_000);

describe('a crowd of one address', () => {
  test.skipIf(process.platform !== 'linux')(
    'that fills all places keeps nobody else out (needs all of 127/8)',
    async () => {
      const idle = await Promise.all(Array.from({ length: 60 }, () => rawClient(proxy.proxy.port)));
      await waitFor('them to be counted', async () => proxy.proxy.stats().unauthenticated >= 60, { timeoutMs: 60_000 });
      for (let i = 0; i < 5; i += 1) await serves();
      for (const { socket } of idle) socket.destroy();
      await calm();
    },
  );

  test('that guesses passwords locks nobody out who knows the right one', async () => {
    const guess = async () => {
      const client = new pg.Client({
        host: '127.0.0.1',
        port: proxy.proxy.port,
        user: 'me',
        password: 'wrong',
        options: 'endpoint=ep-test',
        ssl: false,
      });
      client.on('error', () => undefined);
      return client.connect().then(
        () => 'welcome',
        (error: unknown) => errorMessage(error),
      );
    };
    const guesses = Promise.all(Array.from({ length: 40 }, guess));
    await serves();
    expect(new Set(await guesses)).toEqual(new Set(["password authentication failed for user 'me'"]));
    await serves();
    await calm();
  });
});

describe('slow clients', () => {
  /** Sends a piece every 50 ms until the other side has had enough. */
  async function drip(pieces: () => Buffer): Promise<string> {
    const client = await rawClient(impatient.proxy.port);
    const timer = setInterval(() => client.socket.writable && client.socket.write(pieces()), 50);
    await client.closed.finally(() => clearInterval(timer));
    return client.received().toString('latin1');
  }

  test('a startup packet byte by byte has as long as any other', async () => {
    const long = startupMessage([['user', 'x'.repeat(9_000)]]);
    let at = 0;
    expect(await drip(() => long.subarray(at, ++at))).toContain('Authentication timed out');
  });

  test('a password message byte by byte too', async () => {
    const client = await rawClient(impatient.proxy.port);
    client.socket.write(Buffer.concat([STARTUP, Buffer.from([0x70, 0, 0, 0x10, 0])]));
    const timer = setInterval(() => client.socket.writable && client.socket.write('x'), 50);
    await client.closed.finally(() => clearInterval(timer));
    expect(client.received().toString('latin1')).toContain('Authentication timed out');
  });

  test('heads of HTTP that never end are cut off, bodies as well', async () => {
    const head = 'POST /sql HTTP/1.1\r\nhost: ep-test.localhost\r\n';
    let first = true;
    const start = (text: string) => {
      const piece = Buffer.from(first ? text : 'a');
      first = false;
      return piece;
    };
    expect(await drip(() => start(`${head}x-`))).toMatch(/^HTTP\/1\.1 408|^$/);
    first = true;
    const open =
      `${head}neon-connection-string: postgresql://me:right@ep-test.localhost/postgres\r\n` +
      'content-length: 90000\r\n\r\n{';
    expect(await drip(() => start(open))).toMatch(/^HTTP\/1\.1 408|^$/);
    await waitFor('both to be gone', async () => impatient.proxy.stats().unauthenticated === 0, { timeoutMs: 60_000 });
  });

  test('who is refused and neither reads nor hangs up is let go', async () => {
    await calm();
    const before = await openFiles();
    const socket = net.connect({ port: proxy.proxy.port, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => undefined);
    socket.pause();
    const unknown = startupMessage([
      ['user', 'me'],
      ['options', 'endpoint=ep-none'],
    ]);
    await new Promise<void>((resolve) => socket.write(unknown, () => resolve()));
    await calm();
    // Its own end is all that is left.
    await waitFor('the proxy to close it', async () => (await openFiles()) <= before + 1, { timeoutMs: 60_000 });
    socket.destroy();
  });

  test('who asks for much and reads nothing costs little, and goes with its connection', async () => {
    const client = await connect();
    const { stream } = (client as unknown as { connection: { stream: Socket } }).connection;
    const before = process.memoryUsage().arrayBuffers;
    client.query(`select repeat('x', 1000) from generate_series(1, 1000000)`).catch(() => undefined);
    await new Promise((resolve) => stream.once('data', resolve));
    stream.pause();
    for (let i = 0; i < 3; i += 1) await serves();
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 * 1024);
    stream.destroy();
    await calm();
  });
});

test('requests and messages may be only so long', async () => {
  const address = `http://127.0.0.1:${proxy.proxy.port}/sql`;
  const response = await fetch(address, {
    method: 'POST',
    headers: { 'neon-connection-string': 'postgresql://me:right@ep-test.localhost/postgres' },
    body: JSON.stringify({ query: 'x'.repeat(200_000), params: [] }),
  });
  expect(response.status).toBe(413);
  const head = await rawClient(proxy.proxy.port);
  head.socket.write(`GET / HTTP/1.1\r\nx: ${'y'.repeat(200_000)}`);
  await head.closed;
  expect(head.received().toString()).toMatch(/^HTTP\/1\.1 431|^$/);
  await serves();
});
