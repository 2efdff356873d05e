/**
 * Reads exact amounts from a socket while a connection is being set up, and notices when the client goes away.
 *
 * It never takes more than it was asked for: what follows stays in the socket, for the TLS handshake or the relay that
 * comes next. One read at a time. After `release` the socket is as before, paused.
 */
import type { Readable } from 'node:stream';
import { HEADER_BYTES } from './messages.ts';
import type { Message } from './messages.ts';
import { ProtocolError } from './startup.ts';

/** The other side ended or broke the connection. */
export class ConnectionClosed extends Error {}

export interface SocketReader {
  /** Exactly `sizeBytes` bytes. Rejects with ConnectionClosed. */
  bytes(sizeBytes: number): Promise<Buffer>;
  /** One message with type byte. Rejects with ProtocolError when its body is longer than `maxBodyBytes`. */
  message(maxBodyBytes: number): Promise<Message>;
  /** Aborts when the connection has ended, with ConnectionClosed as reason. */
  readonly closed: AbortSignal;
  release(): void;
}

export function createSocketReader(socket: Readable): SocketReader {
  const gone = new AbortController();
  let waiting: { sizeBytes: number; resolve: (data: Buffer) => void; reject: (error: Error) => void } | undefined;

  const onGone = () => {
    if (!gone.signal.aborted) gone.abort(new ConnectionClosed('connection closed'));
    waiting?.reject(gone.signal.reason as Error);
    waiting = undefined;
  };
  const advance = () => {
    if (!waiting) {
      // Nothing is asked for; this only lets an end of stream show itself.
      if (socket.readableLength === 0) socket.read(0);
      return;
    }
    const data: Buffer | null = socket.read(waiting.sizeBytes);
    if (data === null) return;
    // At the end of the stream read() gives what there is.
    if (data.length < waiting.sizeBytes) return onGone();
    const { resolve } = waiting;
    waiting = undefined;
    resolve(data);
  };
  socket.on('readable', advance);
  socket.on('end', onGone);
  socket.on('close', onGone);
  socket.on('error', onGone);

  const bytes = (sizeBytes: number): Promise<Buffer> => {
    if (gone.signal.aborted) return Promise.reject(gone.signal.reason as Error);
    if (sizeBytes === 0) return Promise.resolve(Buffer.alloc(0));
    return new Promise((resolve, reject) => {
      waiting = { sizeBytes, resolve, reject };
      advance();
    });
  };

  return {
    bytes,
    async message(maxBodyBytes) {
      const header = await bytes(HEADER_BYTES);
      const length = header.readInt32BE(1) - 4;
      if (length < 0 || length > maxBodyBytes) throw new ProtocolError('invalid message length');
      return { type: header[0]!, body: await bytes(length) };
    },
    closed: gone.signal,
    release() {
      socket.off('readable', advance);
      socket.off('end', onGone);
      socket.off('close', onGone);
      socket.off('error', onGone);
    },
  };
}
