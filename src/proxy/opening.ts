/**
 * The first bytes of a connection, up to its startup or cancel packet: TLS by SSLRequest or at once (ALPN
 * `postgresql`), GSSAPI encryption declined.
 *
 * Nothing here looks at endpoints: whoever sends garbage, or only opens a port, gets no further than this file.
 */
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { SecureContext } from 'node:tls';
import {
  MAX_STARTUP_PACKET_BYTES,
  MIN_STARTUP_PACKET_BYTES,
  ProtocolError,
  parseStartupPacket,
} from '../postgres/wire/startup.ts';
import type { StartupPacket } from '../postgres/wire/startup.ts';
import { ConnectionClosed, createSocketReader } from '../postgres/wire/socket-reader.ts';
import type { SocketReader } from '../postgres/wire/socket-reader.ts';

const ALPN = 'postgresql';
const TLS_HANDSHAKE_RECORD = 0x16;

export interface Opening {
  socket: Socket;
  reader: SocketReader;
  packet: Extract<StartupPacket, { kind: 'startup' | 'cancel' }>;
  encrypted: boolean;
  /** What the client asked for by SNI. */
  serverName: string | undefined;
}

/**
 * Rejects with ProtocolError or ConnectionClosed; neither deserves an answer. `onSocket` is told when the TLS socket
 * takes the place of the plain one, `onSecure` when its handshake is done.
 */
export async function openConnection(
  plain: Socket,
  context: () => SecureContext,
  onSocket: (socket: Socket) => void,
  onSecure: () => void,
): Promise<Opening> {
  let socket = plain;
  let reader = createSocketReader(socket);
  let serverName: string | undefined;
  let encrypted = false;
  const upgrade = async (direct: boolean) => {
    reader.release();
    const secured = await secure(socket, context(), onSocket);
    onSecure();
    ({ socket, serverName } = secured);
    encrypted = true;
    if (direct && secured.socket.alpnProtocol !== ALPN) {
      throw new ProtocolError('direct TLS connection without ALPN "postgresql"');
    }
    reader = createSocketReader(socket);
  };
  let declined = false;
  for (;;) {
    const first = await reader.bytes(1);
    if (first[0] === TLS_HANDSHAKE_RECORD && !encrypted) {
      socket.unshift(first);
      await upgrade(true);
      continue;
    }
    const packet = await readPacket(reader, first);
    if (packet.kind === 'startup' || packet.kind === 'cancel') {
      return { socket, reader, packet, encrypted, serverName };
    }
    // Bytes sent before the answer would be read as if they had come encrypted.
    if (socket.readableLength > 0) throw new ProtocolError('unencrypted data after an encryption request');
    if (packet.kind === 'gssenc') {
      if (declined || encrypted) throw new ProtocolError('unexpected encryption request');
      declined = true;
      socket.write('N');
    } else {
      if (encrypted) throw new ProtocolError('unexpected encryption request');
      socket.write('S');
      await upgrade(false);
    }
  }
}

async function readPacket(reader: SocketReader, first: Buffer): Promise<StartupPacket> {
  const length = Buffer.concat([first, await reader.bytes(3)]).readUInt32BE(0);
  if (length < MIN_STARTUP_PACKET_BYTES || length > MAX_STARTUP_PACKET_BYTES) {
    throw new ProtocolError('invalid length of startup packet');
  }
  return parseStartupPacket(await reader.bytes(length - 4));
}

function secure(plain: Socket, context: SecureContext, onSocket: (socket: Socket) => void) {
  return new Promise<{ socket: TLSSocket; serverName: string | undefined }>((resolve, reject) => {
    let serverName: string | undefined;
    const socket = new TLSSocket(plain, {
      isServer: true,
      secureContext: context,
      ALPNProtocols: [ALPN],
      SNICallback: (name, done) => {
        serverName = name;
        done(null, context);
      },
    });
    onSocket(socket);
    const fail = (error?: Error) => reject(new ConnectionClosed(error?.message ?? 'closed during the TLS handshake'));
    socket.on('error', fail);
    const onEnd = () => fail();
    socket.once('close', onEnd);
    // A half-open socket stays open when the client gives up in the middle.
    socket.once('end', onEnd);
    socket.once('secure', () => {
      socket.off('error', fail);
      socket.off('close', onEnd);
      socket.off('end', onEnd);
      resolve({ socket, serverName });
    });
  });
}
