/**
 * The reference of the serverless driver: what it says over WebSocket goes to plain Postgres byte for byte, and back.
 */
import net from 'node:net';
import type { AddressInfo } from 'node:net';
import { createWebSocketStream, WebSocketServer } from 'ws';

export interface Bridge {
  /** For neonConfig.wsProxy. */
  address: string;
  close(): Promise<void>;
}

export async function startBridge(port: number, host: string): Promise<Bridge> {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await new Promise((resolve) => server.once('listening', resolve));
  server.on('connection', (client) => {
    const stream = createWebSocketStream(client);
    const socket = net.connect(port, host);
    stream.on('error', () => socket.destroy());
    socket.on('error', () => stream.destroy());
    stream.pipe(socket).pipe(stream);
  });
  const { port: own } = server.address() as AddressInfo;
  return {
    address: `127.0.0.1:${own}/v2`,
    close: async () => {
      for (const client of server.clients) client.terminate();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
