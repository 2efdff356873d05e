/**
 * Cancel keys: each client gets one of ours in place of its backend's, so that a cancel request says which compute it
 * is for, and a backend's own key never leaves. As many entries as there are sessions.
 */
import { randomBytes } from 'node:crypto';
import net from 'node:net';
import type { ProxyEndpoint, SocketAddress } from '../control-plane/proxy-access.types.ts';
import { cancelRequest } from '../postgres/wire/startup.ts';

export interface CancelTarget {
  endpoint: ProxyEndpoint;
  /** Passes a cancel request on to whatever serves the client now. */
  send: () => Promise<unknown>;
}

/** How Postgres itself knows a session. */
export interface BackendKey {
  address: SocketAddress;
  processId: number;
  secretKey: Buffer;
}

export interface CancelKeys {
  issue(target: CancelTarget): { processId: number; secretKey: Buffer; revoke: () => void };
  find(processId: number, secretKey: Buffer): CancelTarget | undefined;
  size(): number;
}

const KEY_BYTES = 8;
const CANCEL_TIMEOUT_MS = 5_000;

export function createCancelKeys(): CancelKeys {
  const targets = new Map<string, CancelTarget>();
  return {
    issue(target) {
      let key = randomBytes(KEY_BYTES);
      while (targets.has(key.toString('hex'))) key = randomBytes(KEY_BYTES);
      const id = key.toString('hex');
      targets.set(id, target);
      return {
        processId: key.readInt32BE(0),
        secretKey: key.subarray(4),
        revoke: () => void targets.delete(id),
      };
    },
    find(processId, secretKey) {
      const key = Buffer.alloc(4);
      key.writeInt32BE(processId);
      return targets.get(Buffer.concat([key, secretKey]).toString('hex'));
    },
    size: () => targets.size,
  };
}

/**
 * Passes a cancel request on; resolves when Postgres has closed the connection, which is all it ever answers: by then
 * its session has been told. False: it did not, and may still be told.
 */
export function sendCancel({ address, processId, secretKey }: BackendKey): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect({ path: address.path });
    let certain = false;
    socket.setTimeout(CANCEL_TIMEOUT_MS, () => socket.destroy());
    socket.on('error', () => socket.destroy());
    socket.on('end', () => (certain = true));
    socket.on('close', () => resolve(certain));
    socket.resume();
    socket.write(cancelRequest(processId, secretKey));
  });
}
