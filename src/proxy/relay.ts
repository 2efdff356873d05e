/**
 * Bytes both ways between a client and its compute, until both ends are closed.
 *
 * Back-pressure: a side that cannot take more stops the reading of the other, so a connection holds one read's worth
 * of bytes per direction, however slow its client. The end of what a client says is passed on (it still gets the
 * answer); the end of the compute, and a broken connection, end the session.
 */
import type { Socket } from 'node:net';
import { ChunkSocket } from './chunk-socket.ts';
import type { ClientStream } from './client-stream.ts';
import type { Traffic } from './connections.ts';
import { refusalBytes } from './refusal.ts';
import type { WalsenderFilter } from './walsender-filter.ts';

/** How long a client may take to read on when its compute is gone. */
const LINGER_MS = 30_000;
/** How long it may then take to hang up. */
const HANG_UP_MS = 2_000;

const TERMINATE = 'X'.charCodeAt(0);
const TERMINATE_BYTES = 5;

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
  let saidGoodbye = false;
  const onData = (chunk: Buffer) => {
    options.traffic.bytesIn += chunk.length;
    saidGoodbye = endsInTerminate(chunk);
  };
  if (options.filter) pumpFiltered(client, compute, { filter: options.filter, onData, refuse });
  else pump(client, compute, onData);
  client.on('close', () => compute.destroy());
  // Postgres closes its side only when its process goes: it reads no more.
  compute.on('end', () => compute.destroy());
  // It goes when it has read a goodbye: then nobody waits for the client to hang up.
  compute.on('close', () => hangUp(client, saidGoodbye ? 0 : HANG_UP_MS));
  await closed;
}

/** Only a hint: the bytes may stand at the end of something else as well. */
function endsInTerminate(chunk: Buffer): boolean {
  const at = chunk.length - TERMINATE_BYTES;
  return at >= 0 && chunk[at] === TERMINATE && chunk.readUInt32BE(at + 1) === TERMINATE_BYTES - 1;
}

/** Ends a client whose compute is gone; it may neither refuse to read on nor to hang up, nor say more and more. */
function hangUp(client: ClientStream, lingerMs: number): void {
  if (client.destroyed) return;
  const linger = () => {
    client.resume();
    const timer = setTimeout(() => client.destroy(), lingerMs);
    client.once('close', () => clearTimeout(timer));
  };
  // What it sends must not count as a sign of life.
  client.pause();
  client.setTimeout(LINGER_MS, () => client.destroy());
  client.end();
  if (client.writableFinished) linger();
  else client.once('finish', linger);
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

function pump(from: ClientStream, to: ClientStream, onData: (chunk: Buffer) => void): void {
  from.on('data', (chunk: Buffer) => {
    onData(chunk);
    passOn(chunk, from, to);
  });
  connectEnds(from, to);
}

function passOn(chunk: Buffer, from: ClientStream, to: ClientStream): void {
  if (!to.write(chunk)) from.pause();
  // Nothing left to write: the kernel has it all.
  else if (from instanceof ChunkSocket && to.writableLength === 0) from.giveBack();
}

interface Filtering {
  filter: WalsenderFilter;
  onData: (chunk: Buffer) => void;
  refuse: (error: unknown) => void;
}

function pumpFiltered(from: ClientStream, to: ClientStream, { filter, onData, refuse }: Filtering): void {
  let refused = false;
  from.on('data', (chunk: Buffer) => {
    onData(chunk);
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
