import net from 'node:net';
import os from 'node:os';
import { afterEach, describe, expect, test } from 'vitest';
import { listenOnTwin } from './loopback-twin.ts';

const hasIpv6 = Object.values(os.networkInterfaces()).some((each) => each?.some(({ address }) => address === '::1'));
const opened: net.Server[] = [];

afterEach(() => {
  for (const server of opened.splice(0)) server.close();
});

async function echoServer(host: string): Promise<{ server: net.Server; port: number }> {
  const server = net.createServer((socket) => socket.pipe(socket));
  opened.push(server);
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  return { server, port: (server.address() as net.AddressInfo).port };
}

function echo(host: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port }, () => socket.end('hello'));
    let said = '';
    socket.on('data', (chunk) => (said += chunk.toString()));
    socket.on('end', () => resolve(said));
    socket.on('error', reject);
  });
}

describe.skipIf(!hasIpv6)('the twin (needs ::1)', () => {
  test('answers on ::1 with the same server, until it is closed', async () => {
    const { server, port } = await echoServer('127.0.0.1');
    const twin = await listenOnTwin(server, '127.0.0.1', port, () => undefined);
    expect(await echo('::1', port)).toBe('hello');
    twin!.close();
    await expect(echo('::1', port)).rejects.toThrow('ECONNREFUSED');
    expect(await echo('127.0.0.1', port)).toBe('hello');
  });

  test('tells when another program has the port there', async () => {
    const { server, port } = await echoServer('127.0.0.1');
    const other = net.createServer();
    opened.push(other);
    await new Promise<void>((resolve) => other.listen(port, '::1', resolve));
    let taken = false;
    expect(await listenOnTwin(server, '127.0.0.1', port, () => (taken = true))).toBeUndefined();
    expect(taken).toBe(true);
  });
});

test('leaves other addresses alone', async () => {
  const { server, port } = await echoServer('127.0.0.1');
  expect(await listenOnTwin(server, '192.0.2.1', port, () => undefined)).toBeUndefined();
});
