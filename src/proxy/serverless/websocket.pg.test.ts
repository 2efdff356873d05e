/** WebSockets as they are on the wire: paths, frames, pings, close codes, and who has to wait. */
import { once } from 'node:events';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { BUNDLED_MAJOR } from '../../../test/support/installation.ts';
import { startPlainPostgres } from '../../../test/support/plain-postgres.ts';
import type { PlainPostgres } from '../../../test/support/plain-postgres.ts';
import { startTestProxy } from '../../../test/support/proxy.ts';
import type { TestProxy } from '../../../test/support/proxy.ts';
import { waitFor } from '../../../test/support/wait.ts';
import { startupMessage } from '../../postgres/wire/startup.ts';
import { simpleQuery } from './sql-messages.ts';

let postgres: PlainPostgres;
let proxy: TestProxy;
beforeAll(async () => {
  postgres = await startPlainPostgres(BUNDLED_MAJOR);
  await postgres.query(`create role me login password 'right'`);
  await postgres.query('create database mine owner me');
  proxy = await startTestProxy({ wake: async () => ({ path: postgres.socketPath }) });
  const [row] = await postgres.query<{ rolpassword: string }>(`select rolpassword from pg_authid where rolname = 'me'`);
  proxy.verifiers.set('me', row!.rolpassword);
});
afterAll(async () => {
  await proxy?.close();
  await postgres?.stop();
});

const LOGIN = Buffer.concat([
  startupMessage(
    new Map([
      ['user', 'me'],
      ['database', 'mine'],
    ]),
  ),
  Buffer.from('p\0\0\0\x0aright\0', 'latin1'),
]);

async function open(path = '/v2') {
  const socket = new WebSocket(`ws://127.0.0.1:${proxy.proxy.port}${path}`, { headers: { host: 'ep-test.localhost' } });
  const received: Buffer[] = [];
  socket.on('message', (data: Buffer, isBinary) => {
    expect(isBinary).toBe(true);
    received.push(data);
  });
  const closed = once(socket, 'close') as Promise<[number, Buffer]>;
  await once(socket, 'open');
  return { socket, closed, text: () => Buffer.concat(received).toString('latin1') };
}

test('any path will do; startup, password and query may come in one frame or in many', async () => {
  const whole = Buffer.concat([LOGIN, simpleQuery(`select 'hel' || 'lo'`)]);
  for (const [path, pieceBytes] of [
    ['/v2', whole.length],
    ['/', 1],
    ['/any/thing?x=1', 7],
  ] as const) {
    const client = await open(path);
    for (let at = 0; at < whole.length; at += pieceBytes) client.socket.send(whole.subarray(at, at + pieceBytes));
    await waitFor(`the answer on ${path}`, async () => client.text().includes('hello'), { timeoutMs: 60_000 });
    client.socket.send(Buffer.from('X\0\0\0\x04', 'latin1'));
    expect((await client.closed)[0]).toBe(1000);
  }
  await waitFor('the sessions to end', async () => proxy.open.get('ep-test') === 0, { timeoutMs: 60_000 });
});

test('pings are answered, before and after the login; text is refused', async () => {
  const client = await open();
  client.socket.ping('one');
  expect(String((await once(client.socket, 'pong'))[0])).toBe('one');
  client.socket.send(LOGIN);
  await waitFor('the login', async () => client.text().includes('server_version'), { timeoutMs: 60_000 });
  client.socket.ping('two');
  expect(String((await once(client.socket, 'pong'))[0])).toBe('two');
  client.socket.send('select 1');
  expect((await client.closed)[0]).toBe(1003);
});

test('when its session is ended, the client hears why, and a normal close', async () => {
  const client = await open();
  client.socket.send(Buffer.concat([LOGIN, simpleQuery('select pg_backend_pid()')]));
  await waitFor('the answer', async () => client.text().includes('SELECT 1'), { timeoutMs: 60_000 });
  await postgres.query(`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'me'`);
  expect((await client.closed)[0]).toBe(1000);
  expect(client.text()).toContain('57P01');
});

test('a client that does not read holds up its query, and nothing is kept for it', async () => {
  const client = await open();
  client.socket.pause();
  client.socket.send(Buffer.concat([LOGIN, simpleQuery(`select repeat('x', 1000000) from generate_series(1, 60)`)]));
  const state = async () =>
    (await postgres.query<{ wait: string }>(`select wait_event as wait from pg_stat_activity where usename = 'me'`))[0];
  await waitFor('Postgres to wait', async () => (await state())?.wait === 'ClientWrite', { timeoutMs: 60_000 });
  let bytes = 0;
  client.socket.removeAllListeners('message');
  client.socket.on('message', (data: Buffer) => (bytes += data.length));
  client.socket.resume();
  await waitFor('all of it', async () => bytes > 60_000_000, { timeoutMs: 120_000 });
  client.socket.terminate();
  await client.closed;
}, 180_000);
