/**
 * Sockets that are read through one buffer, which all of them share. To everybody else they are ordinary streams.
 *
 * Node allocates 64 KiB for each read and shrinks it afterwards: half of what forwarding a short message costs. A read
 * is one call from the kernel's buffer to ours (Windows aside, where Ballast does not run), so one buffer does for all;
 * what was read is copied out of it at once, and chunks are their receiver's own. So an idle connection holds nothing.
 *
 * A read that fills the buffer has more behind it. The next one goes into a long buffer, which is not copied, and which
 * is read into again where the receiver gives it back.
 */
import net from 'node:net';
import type { Socket } from 'node:net';

const SHORT_BYTES = 16 * 1024;
const LONG_BYTES = 64 * 1024;
/** Scratch space: it means nothing between two calls. */
const shared = Buffer.allocUnsafeSlow(SHORT_BYTES);
/** A long buffer that nobody uses. */
let spare: Buffer | undefined;

class Reads {
  into: Buffer = shared;
  isGivenBack = false;

  /** Takes what a read has put there. True: read on. */
  take(socket: Socket, sizeBytes: number): boolean {
    const from = this.into;
    if (from === shared) {
      // Small ones come from Buffer's own pool, so most copies allocate nothing.
      const chunk = Buffer.allocUnsafe(sizeBytes);
      shared.copy(chunk, 0, 0, sizeBytes);
      if (sizeBytes === SHORT_BYTES) this.into = takeLong();
      return deliver(socket, chunk);
    }
    this.isGivenBack = false;
    const more = deliver(socket, from.subarray(0, sizeBytes));
    if (sizeBytes < LONG_BYTES) {
      this.into = shared;
      if (this.isGivenBack) spare = from;
    } else if (!this.isGivenBack) this.into = takeLong();
    return more;
  }
}

function takeLong(): Buffer {
  const taken = spare ?? Buffer.allocUnsafeSlow(LONG_BYTES);
  spare = undefined;
  return taken;
}

/** The stream's own way to its listeners is long, and needed only where somebody has to wait. */
function deliver(socket: Socket, chunk: Buffer): boolean {
  if (socket.readableFlowing !== true || socket.readableLength > 0) return socket.push(chunk);
  socket.emit('data', chunk);
  return true;
}

/** Half-open ends are the caller's to close. */
export class ChunkSocket extends net.Socket {
  readonly #reads: Reads;

  constructor(handle?: unknown) {
    const reads = new Reads();
    const onread = { buffer: () => reads.into, callback: (sizeBytes: number) => reads.take(this, sizeBytes) };
    const options = { handle, allowHalfOpen: true, manualStart: true, onread };
    super(options as net.SocketConstructorOpts);
    this.#reads = reads;
  }

  /** Said by a listener of 'data': it does not refer to that chunk any more. Worth it where there are many bytes. */
  giveBack(): void {
    this.#reads.isGivenBack = true;
  }
}

export function connectSocket(path: string): ChunkSocket {
  const socket = new ChunkSocket();
  socket.connect({ path });
  return socket;
}

/**
 * Takes the place of a socket that a server has accepted in this very turn; the server forgets it. A server
 * cannot be told how its sockets shall read, but a socket can be made for a handle that is there already.
 */
export function takeAccepted(accepted: Socket): Socket {
  const from = accepted as Socket & { _handle: unknown };
  const handle = from._handle;
  if (!handle) return accepted;
  from._handle = null;
  accepted.destroy();
  return new ChunkSocket(handle);
}
