/** Sockets that share one read buffer: nobody gets another's bytes, whatever their sizes, whoever is slow. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../../test/support/wait.ts';
import { ChunkSocket, connectSocket, takeAccepted } from './chunk-socket.ts';
import { relay } from './relay.ts';

let directory: string;
let socketPath: string;
const servers: net.Server[] = [];
beforeEach(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-chunks-'));
  socketPath = path.join(directory, 's');
});
afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await rm(directory, { recursive: true, force: true });
});

async function listen(options: net.ServerOpts, where: net.ListenOptions, onSocket: (socket: net.Socket) => void) {
  const server = net.createServer(options, onSocket);
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(where, resolve));
  return server;
}

/** Echoes over a Unix socket, behind a relay on a port. */
async function startRelay(pauseOnConnect: boolean): Promise<number> {
  await listen({ allowHalfOpen: true }, { path: socketPath }, (socket) => {
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  const server = await listen({ pauseOnConnect, allowHalfOpen: true }, { port: 0, host: '127.0.0.1' }, (accepted) => {
    const client = takeAccepted(accepted);
    expect(client).toBeInstanceOf(ChunkSocket);
    client.on('error', () => undefined);
    void relay(client, connectSocket(socketPath), {
      onRoleChange: () => undefined,
      traffic: { bytesIn: 0, bytesOut: 0 },
    });
  });
  return (server.address() as net.AddressInfo).port;
}

const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

/** Sends all of it in random pieces, reads in fits and starts; gives what came back. */
async function echo(port: number, bytes: Buffer, isSlow: boolean): Promise<Buffer> {
  const socket = net.connect({ port, host: '127.0.0.1' });
  const received: Buffer[] = [];
  const ended = new Promise<void>((resolve, reject) => {
    socket.on('data', (chunk) => {
      received.push(chunk);
      if (!isSlow) return;
      socket.pause();
      setTimeout(() => socket.resume(), 1);
    });
    socket.on('end', resolve);
    socket.on('error', reject);
  });
  for (let at = 0; at < bytes.length;) {
    const size = 1 + Math.floor(Math.random() ** 4 * 200_000);
    if (!socket.write(bytes.subarray(at, at + size))) await new Promise((resolve) => socket.once('drain', resolve));
    at += size;
    await turn();
  }
  socket.end();
  await ended;
  return Buffer.concat(received);
}

test.each([true, false])('everybody gets their own bytes back, in order (paused before: %s)', async (paused) => {
  const port = await startRelay(paused);
  await Promise.all(
    Array.from({ length: 24 }, async (_, i) => {
      const bytes = randomBytes([300, 5_000, 70_000, 3_000_000][i % 4]!);
      const back = await echo(port, bytes, i % 3 === 0);
      expect(digest(back)).toBe(digest(bytes));
    }),
  );
});

test('what came before anybody listened comes first', async () => {
  let accepted: net.Socket | undefined;
  const server = await listen({ pauseOnConnect: true }, { path: socketPath }, (socket) => {
    accepted = takeAccepted(socket);
  });
  const client = net.connect({ path: socketPath });
  client.write('one ');
  await waitFor('the connection', async () => accepted !== undefined, { timeoutMs: 60_000, intervalMs: 5 });
  const socket = accepted!;
  socket.read(0);
  await waitFor('the first bytes', async () => socket.readableLength === 4, { timeoutMs: 60_000, intervalMs: 5 });
  client.write('two ');
  await waitFor('the next', async () => socket.readableLength === 8, { timeoutMs: 60_000, intervalMs: 5 });
  const chunks: string[] = [];
  socket.on('data', (chunk) => chunks.push(chunk.toString()));
  client.end('three');
  await new Promise((resolve) => socket.once('end', resolve));
  expect(chunks.join('')).toBe('one two three');
  socket.end();
  await new Promise<void>((resolve) => server.close(() => resolve()));
});

test('a paused one reads no more than it has been asked for', async () => {
  let sent = 0;
  await listen({}, { path: socketPath }, (socket) => {
    socket.on('error', () => undefined);
    const more = () => {
      while (socket.write(Buffer.alloc(65_536))) sent += 65_536;
      sent += 65_536;
    };
    socket.on('drain', more);
    more();
  });
  const socket = connectSocket(socketPath);
  socket.on('data', () => socket.pause());
  await new Promise((resolve) => socket.once('data', resolve));
  // What the kernel takes has an end; then nothing moves any more.
  let before = -1;
  await waitFor(
    'the sender to stand still',
    async () => {
      const still = sent === before;
      before = sent;
      return still;
    },
    { timeoutMs: 60_000, intervalMs: 200 },
  );
  expect(socket.readableLength).toBeLessThanOrEqual(65_536);
  expect(socket.bytesRead).toBeLessThanOrEqual(3 * 65_536);
  socket.destroy();
});
