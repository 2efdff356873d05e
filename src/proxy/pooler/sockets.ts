/**
 * Sockets at both ends of a pool.
 */
import type { Socket } from 'node:net';
import { ChunkSocket } from '../chunk-socket.ts';
import type { ClientStream } from '../client-stream.ts';
import type { PooledClient } from './pooled-client.ts';
import type { ServerConnection } from './server-connection.ts';

/** A client that neither reads on nor hangs up must not be kept for ever. */
const LINGER_MS = 30_000;
/** The other side closed while something that we sent had not been read. */
const UNREAD = new Set(['ECONNRESET', 'EPIPE']);

/** Resolves when the connection is closed. */
export function connectClient(socket: ClientStream, client: PooledClient): Promise<void> {
  return new Promise((resolve) => {
    const closed = () => {
      client.closed();
      resolve();
    };
    if (socket.closed) return closed();
    socket.on('data', (chunk: Buffer) => client.receive(chunk));
    socket.on('drain', () => client.drained());
    socket.on('end', () => client.leave());
    socket.on('close', closed);
    socket.on('finish', () => socket.setTimeout(LINGER_MS, () => socket.destroy()));
    socket.resume();
  });
}

export function connectServer(socket: Socket, server: ServerConnection): void {
  let unread = false;
  socket.on('data', (chunk: Buffer) => {
    if (server.receive(chunk) && socket instanceof ChunkSocket) socket.giveBack();
  });
  socket.on('drain', () => server.client?.serverDrained());
  socket.on('end', () => socket.destroy());
  socket.on('error', (error: NodeJS.ErrnoException) => (unread = UNREAD.has(error.code ?? '')));
  socket.on('close', () => {
    const { client } = server;
    server.end();
    server.client = undefined;
    client?.lostServer(server, unread);
  });
  socket.resume();
}
