/**
 * A client's connection as sessions see it: a TCP or TLS socket, or the bytes inside a WebSocket's frames.
 */
import type { Duplex } from 'node:stream';

export interface ClientStream extends Duplex {
  readonly remoteAddress?: string | undefined;
  /** Calls `onIdle` when nothing has come or gone for that long. */
  setTimeout(timeoutMs: number, onIdle: () => void): unknown;
  /** Closes once everything that was written has been sent. */
  destroySoon(): void;
}
