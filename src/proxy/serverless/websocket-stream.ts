/**
 * The bytes inside a WebSocket's binary frames as a stream, with back-pressure both ways. Frames mean nothing: a
 * message of Postgres may span several, and one may hold many.
 *
 * A frame is held until it is whole, and drivers put their startup packet and their first query into one. So what all
 * clients together may have sent before they have authenticated is bounded, beyond a small share that each may have.
 */
import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import type { ClientStream } from '../client-stream.ts';

export interface WebSocketStreamOptions {
  remoteAddress: string | undefined;
  /** Bytes that the connection has received so far. */
  bytesRead: () => number;
  onData: (listener: () => void) => void;
  early: EarlyBudget;
}

/** Shared by all streams. */
export interface EarlyBudget {
  /** Bytes of clients that have not authenticated. */
  usedBytes: number;
  readonly maxBytes: number;
  /** What one of them may send however many others there are. */
  readonly shareBytes: number;
}

const CLOSE_NORMAL = 1000;
const CLOSE_UNSUPPORTED = 1003;
const CLOSE_WITHIN_MS = 5_000;

export class WebSocketStream extends Duplex implements ClientStream {
  readonly remoteAddress: string | undefined;
  readonly #socket: WebSocket;
  readonly #early: EarlyBudget;
  /** Of the budget; undefined once it does not count any more. */
  #earlyBytes: number | undefined = 0;
  #idle: NodeJS.Timeout | undefined;

  constructor(socket: WebSocket, options: WebSocketStreamOptions) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    this.remoteAddress = options.remoteAddress;
    this.#early = options.early;
    const startBytes = options.bytesRead();
    socket.on('message', (data: Buffer, isBinary: boolean) => {
      if (!isBinary) return socket.close(CLOSE_UNSUPPORTED, 'binary frames only');
      this.#idle?.refresh();
      if (!this.push(data)) socket.pause();
    });
    options.onData(() => {
      if (this.#earlyBytes === undefined) return;
      const nowBytes = options.bytesRead() - startBytes;
      this.#early.usedBytes += nowBytes - this.#earlyBytes;
      this.#earlyBytes = nowBytes;
      const { usedBytes, maxBytes, shareBytes } = this.#early;
      if (nowBytes > shareBytes && usedBytes > maxBytes) this.destroy(new Error('too much before authentication'));
    });
    socket.on('close', () => {
      clearTimeout(this.#idle);
      this.push(null);
      this.destroy();
    });
    socket.on('error', (error) => this.destroy(error));
  }

  /** From now on only the reader's pace counts. */
  authenticated(): void {
    this.#early.usedBytes -= this.#earlyBytes ?? 0;
    this.#earlyBytes = undefined;
  }

  setTimeout(timeoutMs: number, onIdle: () => void): this {
    clearTimeout(this.#idle);
    if (timeoutMs > 0) this.#idle = setTimeout(onIdle, timeoutMs);
    return this;
  }

  destroySoon(): void {
    if (this.writableFinished) this.destroy();
    else this.end(() => this.destroy());
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#idle?.refresh();
    this.#socket.send(chunk, { binary: true }, (error) => done(error ?? null));
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.close(CLOSE_NORMAL);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#idle);
    this.authenticated();
    const socket = this.#socket;
    if (error || !this.writableFinished) socket.terminate();
    else {
      // The closing handshake is the other side's to finish, within limits.
      socket.resume();
      const timer = setTimeout(() => socket.terminate(), CLOSE_WITHIN_MS);
      timer.unref();
      socket.once('close', () => clearTimeout(timer));
    }
    done(error);
  }
}
