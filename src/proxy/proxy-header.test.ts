/** The PROXY protocol in front of everything that the port takes: whose address counts, and what is closed. */
import { once } from 'node:events';
import net from 'node:net';
import tls from 'node:tls';
import pg from 'pg';
import { afterEach, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { endpointNamed, rawClient, startTestProxy } from '../../test/support/proxy.ts';
import type { TestProxy } from '../../test/support/proxy.ts';
import { waitFor } from '../../test/support/wait.ts';
import { errorMessage } from '../lib/errors.ts';
import { buildVerifier } from '../postgres/wire/scram.ts';
import { startupMessage } from '../postgres/wire/startup.ts';

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
const TCP4 = 0x11;
const TCP6 = 0x21;

function header(options: { versionCommand?: number; family?: number; body?: Buffer; length?: number } = {}): Buffer {
  const body = options.body ?? tcp4('203.0.113.9');
  const fixed = Buffer.from([options.versionCommand ?? 0x21, options.family ?? TCP4, 0, 0]);
  fixed.writeUInt16BE(options.length ?? body.length, 2);
  return Buffer.concat([SIGNATURE, fixed, body]);
}
const tcp4 = (address: string) =>
  Buffer.from([...address.split('.').map(Number), 127, 0, 0, 1, 0x30, 0x39, 0x15, 0x38]);
const tcp6 = (start: number[], end: number[]) =>
  Buffer.concat([Buffer.from([...start, ...Array(16 - start.length - end.length).fill(0), ...end]), Buffer.alloc(20)]);

let running: TestProxy;
afterEach(() => running?.close());
async function start() {
  running = await startTestProxy({ wake: '/nonexistent/socket', proxyProtocol: true });
  running.verifiers.set('me', await buildVerifier('right', { iterations: 100 }));
  // Nobody gets in anywhere: the refusal says which address was seen.
  running.endpoints.set('ep-far', endpointNamed('ep-far', { allowedIps: ['192.0.2.0/24'] }));
}

/** What a login behind the header is told; the header goes out in pieces. */
async function refusalBehind(front: Buffer, ssl: boolean): Promise<string> {
  const stream = net.connect({ port: running.proxy.port, host: '127.0.0.1', noDelay: true });
  await once(stream, 'connect');
  stream.write(front.subarray(0, 5));
  await new Promise((resolve) => setImmediate(resolve));
  stream.write(front.subarray(5));
  const client = new pg.Client({
    user: 'me',
    password: 'right',
    database: 'postgres',
    options: 'endpoint=ep-far',
    ssl: ssl && { rejectUnauthorized: false },
    stream: () => already(stream),
  });
  client.on('error', () => undefined);
  const told = await client.connect().then(
    () => 'welcome',
    (error: unknown) => errorMessage(error),
  );
  stream.destroy();
  return told;
}

/** For pg, which wants to connect it. */
function already(stream: net.Socket): net.Socket {
  stream.connect = () => {
    setImmediate(() => stream.emit('connect'));
    return stream;
  };
  return stream;
}

test.each<[string, Buffer, string]>([
  ['IPv4', header(), '203.0.113.9'],
  ['IPv6', header({ family: TCP6, body: tcp6([0x20, 0x01, 0x0d, 0xb8], [1]) }), '2001:db8:0:0:0:0:0:1'],
  ['IPv4 in IPv6', header({ family: TCP6, body: tcp6([], [0xff, 0xff, 203, 0, 113, 7]) }), '203.0.113.7'],
  ['with TLVs', header({ body: Buffer.concat([tcp4('203.0.113.9'), Buffer.alloc(3000, 4)]) }), '203.0.113.9'],
  ['LOCAL', header({ versionCommand: 0x20, family: 0, body: Buffer.alloc(0) }), '127.0.0.1'],
  ['LOCAL with something to skip', header({ versionCommand: 0x20, family: 0, body: Buffer.alloc(9) }), '127.0.0.1'],
  ['of unknown family', header({ family: 0, body: Buffer.alloc(0) }), '127.0.0.1'],
])('%s: the address counts, inside TLS too', async (_title, front, address) => {
  await start();
  const refusal = `This IP address ${address} is not allowed to connect to this endpoint.`;
  expect(await refusalBehind(front, true)).toContain(refusal);
  // Without TLS only from the loopback interface: that is where the client is, not the load balancer.
  const plain = await refusalBehind(front, false);
  expect(plain).toContain(address === '127.0.0.1' ? refusal : 'connection is insecure');
});

test.each<[string, Buffer]>([
  ['nothing of the kind', startupMessage([['user', 'me']])],
  ['an SSLRequest', Buffer.from([0, 0, 0, 8, 4, 210, 22, 47])],
  ['HTTP', Buffer.from('POST /sql HTTP/1.1\r\n\r\n')],
  ['half a signature', Buffer.concat([SIGNATURE.subarray(0, 8), Buffer.from('________')])],
  ['another version', header({ versionCommand: 0x31 })],
  ['another command', header({ versionCommand: 0x22 })],
  ['datagrams', header({ family: 0x12 })],
  ['a Unix socket', header({ family: 0x31, body: Buffer.alloc(216) })],
  ['too few bytes for its family', header({ family: TCP6, body: Buffer.alloc(12) })],
  ['a length that nobody needs', header({ length: 0xffff })],
])('%s is closed without a word', async (_title, bytes) => {
  await start();
  const client = await rawClient(running.proxy.port);
  client.socket.write(bytes);
  await client.closed;
  expect(client.received()).toHaveLength(0);
});

test('version 1 is told to be version 2', async () => {
  await start();
  const client = await rawClient(running.proxy.port);
  client.socket.write('PROXY TCP4 203.0.113.9 127.0.0.1 5 6\r\n');
  await client.closed;
  expect(client.received().toString('latin1')).toContain('PROXY protocol version 1 is not supported');
});

test('SQL over HTTP and WebSockets count the address as well', async () => {
  await start();
  running.endpoints.set('ep-test', endpointNamed('ep-test', { allowedIps: ['192.0.2.0/24'] }));
  const secured = async () => {
    const stream = net.connect({ port: running.proxy.port, host: '127.0.0.1' });
    stream.write(header());
    const socket = tls.connect({ socket: stream, rejectUnauthorized: false, servername: 'ep-test.localhost' });
    await once(socket, 'secureConnect');
    return socket;
  };
  const http = await secured();
  const body = JSON.stringify({ query: 'select 1', params: [] });
  http.write(
    'POST /sql HTTP/1.1\r\nhost: ep-test.localhost\r\nconnection: close\r\n' +
      'neon-connection-string: postgresql://me:right@ep-test.localhost/postgres\r\n' +
      `content-length: ${body.length}\r\n\r\n${body}`,
  );
  let answer = '';
  http.on('data', (chunk: Buffer) => (answer += chunk.toString()));
  await waitFor('an answer', async () => answer.includes('}'), { timeoutMs: 60_000 });
  expect(answer).toContain('This IP address 203.0.113.9 is not allowed');
  http.destroy();

  const socket = await secured();
  const webSocket = new WebSocket('ws://ep-test.localhost/v2', { createConnection: () => socket });
  const told = new Promise<string>((resolve) => webSocket.once('message', (data: Buffer) => resolve(data.toString())));
  await once(webSocket, 'open');
  webSocket.send(startupMessage([['user', 'me']]));
  expect(await told).toContain('This IP address 203.0.113.9 is not allowed');
  webSocket.terminate();
});

test('without the setting a header is nothing that is understood', async () => {
  running = await startTestProxy({ wake: '/nonexistent/socket' });
  const client = await rawClient(running.proxy.port);
  client.socket.write(header());
  await client.closed;
  expect(client.received()).toHaveLength(0);
});
