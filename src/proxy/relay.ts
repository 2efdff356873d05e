/**
 * Bytes both ways between a client and its compute, until both ends are closed.
 *
 * Back-pressure: a side that cannot take more stops the reading of the other, so a connection holds one read's worth
 * of bytes per direction, however slow its client. Ends are passed on one direction at a time (a client that has said
 * its last word still gets the answer); a broken connection breaks the other.
 */
import type { Socket } from 'node:net';
import { refusalBytes } from './refusal.ts';
import type { WalsenderFilter } from './walsender-filter.ts';

const LINGER_MS = 30_000;

/** Resolves when both sockets are closed. Never rejects. */
export async function relay(client: Socket, compute: Socket, filter?: WalsenderFilter): Promise<void> {
  const closed = Promise.all([whenClosed(client), whenClosed(compute)]);
  // A refused command ends the session: what Postgres may be answering right now must not come after the refusal.
  const refuse = (error: unknown) => {
    compute.destroy();
    client.end(refusalBytes(error));
  };
  pump(compute, client);
  if (filter) pumpFiltered(client, compute, filter, refuse);
  else pump(client, compute);
  client.on('close', () => compute.destroy());
  compute.on('close', () => {
    client.end();
    // A client that neither reads on nor hangs up must not be kept for ever.
    client.setTimeout(LINGER_MS, () => client.destroy());
  });
  await closed;
}

function pump(from: Socket, to: Socket): void {
  from.on('data', (chunk: Buffer) => {
    if (!to.write(chunk)) from.pause();
  });
  connectEnds(from, to);
}

function pumpFiltered(from: Socket, to: Socket, filter: WalsenderFilter, refuse: (error: unknown) => void): void {
  let refused = false;
  from.on('data', (chunk: Buffer) => {
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

function connectEnds(from: Socket, to: Socket): void {
  to.on('drain', () => from.resume());
  from.on('end', () => to.end());
  from.on('error', () => to.destroy());
  from.resume();
}

function whenClosed(socket: Socket): Promise<void> {
  return socket.closed ? Promise.resolve() : new Promise((resolve) => socket.once('close', () => resolve()));
}
