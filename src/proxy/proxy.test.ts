/** The proxy before any compute: who gets how far, what they are told, and that nothing is woken on the way. */
import fc from 'fast-check';
import { randomBytes } from 'node:crypto';
import type net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { endpointNamed, rawClient, startTestProxy, tlsClient } from '../../test/support/proxy.ts';
import type { TestProxy, TestProxyOptions } from '../../test/support/proxy.ts';
import { waitFor } from '../../test/support/wait.ts';
import { AppError, errorMessage } from '../lib/errors.ts';
import { negotiateProtocolVersion, parseErrorFields } from '../postgres/wire/messages.ts';
import { buildVerifier } from '../postgres/wire/scram.ts';
import { startupMessage } from '../postgres/wire/startup.ts';
import { createProxy } from './proxy.ts';

const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
const NO_ENDPOINT = /^Endpoint ID is not specified\. Either please upgrade .* See more at https:\/\/neon\.tech\/sni$/;

let running: TestProxy;
const start = async (options: Partial<TestProxyOptions> = {}) => {
  running = await startTestProxy({ wake: '/nonexistent/socket', ...options });
  running.verifiers.set('me', await buildVerifier('right', { iterations: 100 }));
  return running;
};
afterEach(() => running?.close());

/** Asks often: what it waits for happens in this process. */
const until = (what: string, ask: () => boolean) =>
  waitFor(what, async () => ask(), { timeoutMs: 50_000, intervalMs: 5 });

interface Login {
  user?: string;
  password?: string;
  options?: string;
  ssl?: pg.ClientConfig['ssl'];
  host?: string;
}

/** The message and SQLSTATE with which a login fails. */
async function failure({ port }: { port: number }, login: Login = {}): Promise<{ message: string; code: string }> {
  const client = new pg.Client({
    host: login.host ?? '127.0.0.1',
    port,
    user: login.user ?? 'me',
    password: login.password ?? 'right',
    database: 'postgres',
    ...('options' in login ? { options: login.options } : { options: 'endpoint=ep-test' }),
    ssl: login.ssl ?? false,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
  } catch (error) {
    return { message: errorMessage(error), code: (error as { code?: string }).code ?? '' };
  }
  await client.end();
  throw new Error('the login went well');
}

const sni = (servername: string) => ({ rejectUnauthorized: false, servername });

describe('an endpoint', () => {
  beforeEach(() => start().then(() => undefined));

  test.each<[string, Login, string | RegExp]>([
    ['that is not named', { options: undefined }, NO_ENDPOINT],
    ['that is not named over TLS', { options: undefined, ssl: sni('localhost') }, NO_ENDPOINT],
    ['under another domain', { options: undefined, ssl: sni('ep-test.example.com') }, NO_ENDPOINT],
    [
      'that does not exist',
      { options: 'endpoint=ep-none' },
      "The requested endpoint could not be found, or you don't have access to it. Please check the provided ID and try again.",
    ],
    [
      'named twice and differently',
      { options: 'endpoint=ep-b', ssl: sni('ep-test.localhost') },
      "Inconsistent project name inferred from SNI ('ep-test') and project option ('ep-b').",
    ],
    [
      'with a name that cannot be',
      { options: 'endpoint=ep_x' },
      "Project name ('ep_x') must contain only alphanumeric characters and hyphen.",
    ],
    ['at a point that is none', { options: 'endpoint=ep-test neon_lsn:now' }, /must be an LSN such as/],
    ['at two points', { options: 'endpoint=ep-test neon_lsn:0/1 neon_timestamp:2026-01-01T00:00:00Z' }, /together/],
    ['of a strange type', { options: 'endpoint=ep-test neon_endpoint_type:x' }, /read_write or read_only/],
  ])('%s is refused', async (_title, login, message) => {
    const refusal = await failure(running.proxy, login);
    if (typeof message === 'string') expect(refusal.message).toBe(message);
    else expect(refusal.message).toMatch(message);
    expect(running.wakes).toEqual([]);
  });

  test('that is disabled is refused after the password, and not woken', async () => {
    running.endpoints.set('ep-off', endpointNamed('ep-off', { disabled: true }));
    const { message } = await failure(running.proxy, { options: 'endpoint=ep-off' });
    expect(message).toBe('The endpoint has been disabled. Enable it using Neon API and retry.');
    const wrong = await failure(running.proxy, { options: 'endpoint=ep-off', password: 'wrong' });
    expect(wrong.message).toBe("password authentication failed for user 'me'");
    expect(running.wakes).toEqual([]);
  });

  test('by a branch and a point is looked up, and woken once the password fits', async () => {
    const branchId = 'br-quiet-river-12345678';
    running.endpoints.set(branchId, endpointNamed(branchId));
    const login = { ssl: sni(`${branchId}.localhost`), options: 'neon_timestamp:2026-01-16T21:02:04Z' };
    const wrong = await failure(running.proxy, { ...login, password: 'wrong' });
    expect(wrong.message).toBe("password authentication failed for user 'me'");
    expect(running.wakes).toEqual([]);
    await failure(running.proxy, login).catch(() => undefined);
    const point = { kind: 'time', time: '2026-01-16T21:02:04.000000Z' };
    expect(running.choices.at(-1)).toEqual({ id: branchId, point });
    expect(running.wakes[0]).toBe(branchId);
  });

  test('that does not allow the address says so before it asks for a password', async () => {
    running.endpoints.set('ep-far', endpointNamed('ep-far', { allowedIps: ['192.0.2.0/24'] }));
    const { message } = await failure(running.proxy, { options: 'endpoint=ep-far', password: 'wrong' });
    expect(message).toContain('This IP address 127.0.0.1 is not allowed to connect to this endpoint.');
    expect(running.wakes).toEqual([]);
  });
});

describe('a password', () => {
  test.each<[string, Login]>([
    ['wrong', { password: 'wrong' }],
    ['of a role that does not exist', { user: 'nobody' }],
    ['wrong, behind an endpoint', { options: undefined, password: 'endpoint=ep-test;wrong' }],
    [
      'of a role that does not exist, behind an endpoint',
      { options: undefined, user: 'nobody', password: 'endpoint=ep-test$x' },
    ],
    ['of cloud_admin', { user: 'cloud_admin' }],
    ['of a predefined role', { user: 'pg_monitor' }],
    ['wrong, over TLS', { password: 'wrong', ssl: sni('ep-test.localhost'), options: undefined }],
  ])('%s is refused with the same words, and nothing is woken', async (_title, login) => {
    await start();
    running.verifiers.set('cloud_admin', running.verifiers.get('me')!);
    running.verifiers.set('pg_monitor', running.verifiers.get('me')!);
    expect(await failure(running.proxy, login)).toEqual({
      message: `password authentication failed for user '${login.user ?? 'me'}'`,
      code: 'XX000',
    });
    expect(running.wakes).toEqual([]);
  });

  test('that SQL has changed counts once roles have been read back', async () => {
    const salt = randomBytes(16);
    const refreshes: unknown[] = [];
    await start({
      refreshVerifiers: async (endpoint) => {
        refreshes.push(endpoint.endpointId);
        running.verifiers.set('me', await buildVerifier('changed', { iterations: 100, salt }));
        return true;
      },
    });
    running.verifiers.set('me', await buildVerifier('right', { iterations: 100, salt }));
    // Gets as far as the compute, which is not there.
    expect((await failure(running.proxy, { password: 'changed' })).message).toBe("Couldn't connect to compute node");
    expect(refreshes).toEqual(['ep-test']);
    const byPrefix = { options: undefined, password: 'endpoint=ep-test;changed' };
    expect((await failure(running.proxy, byPrefix)).message).toBe("Couldn't connect to compute node");
  });

  test('guessed again and again is answered ever later, the right one at once', async () => {
    await start({ limits: { freeLoginFailures: 2, maxFailureDelayMs: 60 } });
    const times: number[] = [];
    for (let i = 0; i < 8; i += 1) {
      const beforeMs = performance.now();
      await failure(running.proxy, { password: 'wrong' });
      times.push(performance.now() - beforeMs);
    }
    expect(times.at(-1)!).toBeGreaterThanOrEqual(58);
  });

  test('a hundred wrong ones and a storm of garbage wake nothing and leave nothing behind', async () => {
    await start({ limits: { maxFailureDelayMs: 1 } });
    await Promise.all(Array.from({ length: 100 }, (_, i) => failure(running.proxy, { password: `wrong ${i}` })));
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (bytes) => {
        const client = await rawClient(running.proxy.port);
        client.socket.end(bytes);
        await client.closed;
      }),
      { numRuns: 100 },
    );
    for (let i = 0; i < 50; i += 1) (await rawClient(running.proxy.port)).socket.resetAndDestroy();
    await until('every connection to be gone', () => running.proxy.stats().unauthenticated === 0);
    expect(running.wakes).toEqual([]);
    expect(running.proxy.stats()).toMatchObject({ sessions: 0, cancelKeys: 0, loginFailures: 100 });
  });
});

describe('the wire', () => {
  test('without TLS is for loopback on localhost only', async () => {
    const insecure = 'connection is insecure (try using `sslmode=require`)';
    await start({ requireTls: true });
    expect((await failure(running.proxy)).message).toBe(insecure);
    expect((await failure(running.proxy, { ssl: sni('ep-test.localhost') })).message).toMatch(/compute node/);
  });

  test('direct TLS needs ALPN, and gets as far as SSLRequest does', async () => {
    await start();
    const startup = startupMessage([['user', 'me']]);
    const direct = await tlsClient(running.proxy.port, {
      servername: 'ep-test.localhost',
      ALPNProtocols: ['postgresql'],
    });
    expect(direct.socket.alpnProtocol).toBe('postgresql');
    direct.socket.write(startup);
    await until('an offer of both mechanisms', () =>
      direct.received().includes('SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0'),
    );
    direct.socket.destroy();

    const without = await tlsClient(running.proxy.port, { servername: 'ep-test.localhost' });
    without.socket.write(startup);
    await without.closed;
    expect(without.received()).toHaveLength(0);
    await expect(tlsClient(running.proxy.port, { ALPNProtocols: ['h2'] })).rejects.toThrow();
    await expect(tlsClient(running.proxy.port, { maxVersion: 'TLSv1.1', minVersion: 'TLSv1.1' })).rejects.toThrow();
  });

  test('does not read what was sent in the clear behind an SSLRequest', async () => {
    await start();
    const client = await rawClient(running.proxy.port);
    client.socket.write(Buffer.concat([SSL_REQUEST, startupMessage([['user', 'me']])]));
    await client.closed;
    expect(client.received().length).toBeLessThanOrEqual(1);
  });

  test('offers no channel binding in the clear, and declines GSSAPI', async () => {
    await start();
    const client = await rawClient(running.proxy.port);
    client.socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 48]));
    await until('an answer', () => client.received().length > 0);
    client.socket.write(
      startupMessage([
        ['user', 'me'],
        ['options', 'endpoint=ep-test'],
      ]),
    );
    await until('an offer', () => client.received().includes('SCRAM'));
    expect(client.received().toString('latin1')).toMatch(/^NR.{8}SCRAM-SHA-256\0\0$/s);
    client.socket.destroy();
  });

  test('arrives in single bytes as well', async () => {
    await start();
    const client = await rawClient(running.proxy.port);
    client.socket.setNoDelay(true);
    for (const byte of startupMessage([
      ['user', 'me'],
      ['options', 'endpoint=ep-test'],
    ])) {
      client.socket.write(Buffer.from([byte]));
      await sleep(0);
    }
    await until('an offer', () => client.received().includes('SCRAM'));
    client.socket.destroy();
  });

  test('newer minor versions and unknown protocol options are negotiated down, other majors refused', async () => {
    await start();
    const newer = startupMessage([
      ['user', 'me'],
      ['_pq_.new', '1'],
      ['options', 'endpoint=ep-test'],
    ]);
    newer.writeInt16BE(2, 6);
    const client = await rawClient(running.proxy.port);
    client.socket.write(newer);
    await until('an offer', () => client.received().includes('SCRAM'));
    const negotiated = negotiateProtocolVersion(['_pq_.new']);
    expect(client.received().subarray(0, negotiated.length)).toEqual(negotiated);
    client.socket.destroy();

    const older = startupMessage([['user', 'me']]);
    older.writeInt16BE(2, 4);
    const refused = await rawClient(running.proxy.port);
    refused.socket.write(older);
    await refused.closed;
    expect(parseErrorFields(refused.received().subarray(5))).toMatchObject({ code: '0A000' });
  });

  test.each([
    ['a startup packet that is too long', Buffer.from([0, 1, 0, 0])],
    ['a startup packet that is too short', Buffer.from([0, 0, 0, 3])],
    ['something else', Buffer.from('\u0001\u0002\u0003\u0004\u0005')],
  ])('%s is closed without a word', async (_title, bytes) => {
    await start();
    const client = await rawClient(running.proxy.port);
    client.socket.write(bytes);
    await client.closed;
    expect(client.received()).toHaveLength(0);
  });

  test('a missing user is named', async () => {
    await start();
    const client = await rawClient(running.proxy.port);
    client.socket.write(startupMessage([['options', 'endpoint=ep-test']]));
    await client.closed;
    expect(parseErrorFields(client.received().subarray(5)).message).toBe(
      "Parameter 'user' is missing in startup packet.",
    );
  });
});

describe('limits', () => {
  test.each([
    ['says nothing', Buffer.alloc(0)],
    ['stops in the middle of its startup packet', Buffer.from([0, 0, 0, 50, 0, 3])],
    [
      'does not answer the challenge',
      startupMessage([
        ['user', 'me'],
        ['options', 'endpoint=ep-test'],
      ]),
    ],
  ])('who %s is told that time is up', async (_title, bytes) => {
    await start({ limits: { handshakeTimeoutMs: 100 } });
    const client = await rawClient(running.proxy.port);
    client.socket.write(bytes);
    await client.closed;
    expect(client.received().toString('latin1')).toContain('MAuthentication timed out\0');
  });

  test('who dawdles in the TLS handshake is cut off', async () => {
    await start({ limits: { handshakeTimeoutMs: 100 } });
    const client = await rawClient(running.proxy.port);
    client.socket.write(SSL_REQUEST);
    await client.closed;
    await until('it to be forgotten', () => running.proxy.stats().unauthenticated === 0);
  });

  test.each([
    ['before a word', []],
    ['in the startup packet', [0, 0, 0]],
    ['in the TLS handshake', [0x16]],
    ['in a longer piece of one', [0x16, 3, 1, 2, 0, 1]],
  ])('who hangs up %s is forgotten at once', async (_title, bytes) => {
    await start();
    const client = await rawClient(running.proxy.port);
    client.socket.end(Buffer.from(bytes));
    await client.closed;
    await until('it to be forgotten', () => running.proxy.stats().unauthenticated === 0);
  });

  test('connections that do not authenticate cannot crowd out the rest for long', async () => {
    await start({ limits: { handshakeTimeoutMs: 300, maxUnauthenticated: 5 } });
    const idle = await Promise.all(Array.from({ length: 5 }, () => rawClient(running.proxy.port)));
    await until('them to be counted', () => running.proxy.stats().unauthenticated === 5);
    expect((await failure(running.proxy)).message).toBe('Too many connections attempts');
    await Promise.all(idle.map((client) => client.closed));
    expect((await failure(running.proxy)).message).toBe("Couldn't connect to compute node");
  });

  test('a password message may be only so long', async () => {
    await start();
    const client = await rawClient(running.proxy.port);
    client.socket.write(
      startupMessage([
        ['user', 'me'],
        ['options', 'endpoint=ep-test'],
      ]),
    );
    client.socket.write(Buffer.from([0x70, 0x7f, 0xff, 0xff, 0xff]));
    await client.closed;
    expect(client.received().toString('latin1')).toContain('MMalformed password message: ');
  });

  test('an endpoint takes only so many connections', async () => {
    const waiting: (() => void)[] = [];
    await start({
      limits: { maxConnectionsPerEndpoint: 1 },
      wake: () => new Promise((resolve) => waiting.push(() => resolve({ path: '/nonexistent' }))),
    });
    const first = failure(running.proxy);
    await until('the first to wait', () => waiting.length === 1);
    expect((await failure(running.proxy)).message).toBe(
      'Too many connections to this endpoint. Please try again later.',
    );
    expect(running.open.get('ep-test')).toBe(1);
    await running.proxy.close(0);
    expect((await first).message).not.toBe('');
    expect(running.open.get('ep-test')).toBe(0);
  });
});

describe('waking', () => {
  test('what the control plane says reaches the client, what it does not say does not', async () => {
    const errors = [
      new AppError('too_many', 'You have exceeded the limit.', { internal: 'secret' }),
      new Error('secret'),
    ];
    await start({ wake: async () => Promise.reject(errors.shift()!) });
    expect((await failure(running.proxy)).message).toBe('You have exceeded the limit.');
    expect((await failure(running.proxy)).message).toBe('Internal error');
  });

  test('ends when it takes too long', async () => {
    await start({
      limits: { wakeTimeoutMs: 50 },
      wake: (_endpoint, { signal }) =>
        new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error))),
    });
    expect((await failure(running.proxy)).message).toBe("Couldn't connect to compute node");
  });

  test('ends when the client goes away', async () => {
    let aborted = false;
    await start({
      wake: (_endpoint, { signal }) =>
        new Promise((_resolve, reject) =>
          signal.addEventListener('abort', () => {
            aborted = true;
            reject(signal.reason as Error);
          }),
        ),
    });
    const client = new pg.Client({
      port: running.proxy.port,
      host: '127.0.0.1',
      user: 'me',
      password: 'right',
      options: 'endpoint=ep-test',
      ssl: false,
    });
    client.on('error', () => undefined);
    client.connect().catch(() => undefined);
    await until('the wake', () => running.wakes.length === 1);
    (client as unknown as { connection: { stream: net.Socket } }).connection.stream.destroy();
    await until('the wake to end', () => aborted && running.open.get('ep-test') === 0);
  });

  test('is done again with the address that failed', async () => {
    const stales: unknown[] = [];
    await start({
      wake: async (_endpoint, { stale }) => {
        stales.push(stale?.path);
        return { path: `/nonexistent/${stales.length}` };
      },
    });
    expect((await failure(running.proxy)).message).toBe("Couldn't connect to compute node");
    expect(stales.slice(0, 3)).toEqual([undefined, '/nonexistent/1', '/nonexistent/2']);
  });
});

test('a port that is taken is said to be, with the flag that helps', async () => {
  await start();
  const second = createProxy({
    access: undefined as never,
    tls: running.tls,
    domain: 'localhost',
    logger: undefined as never,
    requireTls: false,
  });
  await expect(second.listen('127.0.0.1', running.proxy.port)).rejects.toThrow(
    `port ${running.proxy.port} on 127.0.0.1 is already in use: choose another with --pg-port`,
  );
});
