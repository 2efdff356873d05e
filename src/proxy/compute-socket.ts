/**
 * The socket to a compute: one buffer is read into again and again, as long as nobody still needs what is in it.
 *
 * Most chunks are passed to the client's kernel buffer within the call that delivers them, so nothing has to be
 * allocated per read. That is worth about a tenth of the throughput of short queries.
 */
import net from 'node:net';
import type { Socket } from 'node:net';

/** Postgres flushes 8 kB at a time. */
const READ_BUFFER_BYTES = 16 * 1024;

/**
 * What is done with each chunk. `kept`: it is still in use after the call. `pause`: no more until `socket.resume()`.
 */
export type ChunkHandler = (chunk: Buffer) => { kept: boolean; pause: boolean };

export interface ComputeSocket {
  socket: Socket;
  /** Replaces the handler. Ends, errors and writing are those of the socket; it never emits 'data'. */
  receive(handler: ChunkHandler): void;
}

export function connectCompute(path: string, handler: ChunkHandler): ComputeSocket {
  let current = handler;
  let buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
  let kept = false;
  const socket = net.connect({
    path,
    allowHalfOpen: true,
    onread: {
      buffer: () => {
        if (kept) buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
        kept = false;
        return buffer;
      },
      callback: (sizeBytes) => {
        const result = current(buffer.subarray(0, sizeBytes));
        kept = result.kept;
        return !result.pause;
      },
    },
  });
  return { socket, receive: (next) => void (current = next) };
}
