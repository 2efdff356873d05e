/**
 * Bytes both ways between a client and its compute, until both ends are closed.
 *
 * Back-pressure: a side that cannot take more stops the reading of the other, so a connection holds one read's worth
 * of bytes per direction, however slow its client. Ends are passed on one direction at a time (a client that has said
 * its last word still gets the answer); a broken connection breaks the other.
 */
import type { Socket } from 'node:net';
import { ChunkSocket } from './chunk-socket.ts';
import type { ClientStream } from './client-stream.ts';
import type { Traffic } from './connections.ts';
import { refusalBytes } from './refusal.ts';
import type { WalsenderFilter } from './walsender-filter.ts';

const LINGER_MS = 30_000;

const COMMAND_COMPLETE = 'C'.charCodeAt(0);
const LAST_OF_ROLE = 'E'.charCodeAt(0);
/** The end of the command tags CREATE ROLE, ALTER ROLE and DROP ROLE. */
const ROLE_TAG = Buffer.from(' ROLE\0', 'latin1');
/** NUL of the tag and ReadyForQuery: what stands behind the last letter of the last tag of an answer. */
const BEHIND_LAST_TAG_BYTES = 7;
/** Tags stand at the end of an answer. */
const TAG_WINDOW_BYTES = 512;

export interface RelayOptions {
  /** Checks what the client sends. */
  filter?: WalsenderFilter;
  /** Postgres seems to have confirmed that roles were changed. False alarms are possible, and so are misses. */
  onRoleChange: () => void;
  traffic: Pick<Traffic, 'bytesIn' | 'bytesOut'>;
}

/** Resolves when both sockets are closed. Never rejects. */
export async function relay(client: ClientStream, compute: Socket, options: RelayOptions): Promise<void> {
  const closed = Promise.all([whenClosed(client), whenClosed(compute)]);
  // A refused command ends the session: what Postgres may be answering right now must not come after the refusal.
  const refuse = (error: unknown) => {
    compute.destroy();
    client.end(refusalBytes(error));
  };
  pumpAnswers(compute, client, options);
  if (options.filter) pumpFiltered(client, compute, options.filter, options.traffic, refuse);
  else pump(client, compute, options.traffic);
  client.on('close', () => compute.destroy());
  compute.on('close', () => {
    client.end();
    // A client that neither reads on nor hangs up must not be kept for ever.
    client.setTimeout(LINGER_MS, () => client.destroy());
  });
  await closed;
}

function pumpAnswers(compute: Socket, client: ClientStream, { onRoleChange, traffic }: RelayOptions): void {
  compute.on('data', (chunk: Buffer) => {
    traffic.bytesOut += chunk.length;
    if (mayChangeRoles(chunk)) onRoleChange();
    passOn(chunk, compute, client);
  });
  connectEnds(compute, client);
}

/** Two bytes tell for nearly every answer that it is no such one; only the others are searched. */
function mayChangeRoles(chunk: Buffer): boolean {
  const { length } = chunk;
  if (chunk[0] !== COMMAND_COMPLETE && chunk[length - BEHIND_LAST_TAG_BYTES - 1] !== LAST_OF_ROLE) return false;
  return chunk.includes(ROLE_TAG, Math.max(0, length - TAG_WINDOW_BYTES));
}

function pump(from: ClientStream, to: ClientStream, traffic: RelayOptions['traffic']): void {
  from.on('data', (chunk: Buffer) => {
    traffic.bytesIn += chunk.length;
    passOn(chunk, from, to);
  });
  connectEnds(from, to);
}

function passOn(chunk: Buffer, from: ClientStream, to: ClientStream): void {
  if (!to.write(chunk)) from.pause();
  // Nothing left to write: the kernel has it all.
  else if (from instanceof ChunkSocket && to.writableLength === 0) from.giveBack();
}

function pumpFiltered(
  from: ClientStream,
  to: ClientStream,
  filter: WalsenderFilter,
  traffic: RelayOptions['traffic'],
  refuse: (error: unknown) => void,
): void {
  let refused = false;
  from.on('data', (chunk: Buffer) => {
    traffic.bytesIn += chunk.length;
    if (refused) return;
    try {
      for (const bytes of filter.push(chunk)) {
        if (!to.write(bytes)) from.pause();
      }
    } catch (error) {
      refused = true;
      refuse(error);
    }
  });
  connectEnds(from, to);
}

function connectEnds(from: ClientStream, to: ClientStream): void {
  to.on('drain', () => from.resume());
  from.on('end', () => to.end());
  from.on('error', () => to.destroy());
  from.resume();
}

function whenClosed(socket: ClientStream): Promise<void> {
  return socket.closed ? Promise.resolve() : new Promise((resolve) => socket.once('close', () => resolve()));
}
