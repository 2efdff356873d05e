/**
 * The first bytes of a connection, which tell what it speaks: Postgres up to its startup or cancel packet (TLS by
 * SSLRequest or at once, GSSAPI encryption declined), or HTTP, plain or inside TLS. In TLS without SSLRequest the ALPN
 * name decides; without one, the first byte: HTTP begins with a capital letter, a startup packet with a zero.
 *
 * Nothing here looks at endpoints: whoever sends garbage, or only opens a port, gets no further than this file.
 */
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { SecureContext } from 'node:tls';
import { callbackify } from 'node:util';
import {
  MAX_STARTUP_PACKET_BYTES,
  MIN_STARTUP_PACKET_BYTES,
  ProtocolError,
  parseStartupPacket,
} from '../postgres/wire/startup.ts';
import type { StartupPacket } from '../postgres/wire/startup.ts';
import type { ClientStream } from './client-stream.ts';
import { ConnectionClosed, createSocketReader } from '../postgres/wire/socket-reader.ts';
import type { SocketReader } from '../postgres/wire/socket-reader.ts';

const ALPN_POSTGRES = 'postgresql';
const ALPN_HTTP = 'http/1.1';
const TLS_HANDSHAKE_RECORD = 0x16;

/** The certificate that a client is shown. */
export interface Identity {
  context: SecureContext;
  /** For channel binding; undefined when the certificate has no hash to use. */
  endPointHash: Buffer | undefined;
}

export interface Opening {
  kind: 'postgres';
  socket: ClientStream;
  reader: SocketReader;
  packet: Extract<StartupPacket, { kind: 'startup' | 'cancel' }>;
  encrypted: boolean;
  /** Of the certificate that the client saw; undefined without TLS. */
  endPointHash: Buffer | undefined;
  /** What the client asked for by SNI, or by the host of its WebSocket. */
  serverName: string | undefined;
  /** The client sends its password unasked. */
  cleartext: boolean;
}

export interface HttpOpening {
  kind: 'http';
  /** Nothing has been read from it. */
  socket: Socket;
}

/**
 * Rejects with ProtocolError or ConnectionClosed; neither deserves an answer. `onSocket` is told when the TLS socket
 * takes the place of the plain one, `onSecure` when its handshake is done.
 */
export async function openConnection(
  plain: Socket,
  identify: (serverName: string | undefined) => Promise<Identity>,
  onSocket: (socket: Socket) => void,
  onSecure: () => void,
): Promise<Opening | HttpOpening> {
  let socket = plain;
  let reader = createSocketReader(socket);
  let serverName: string | undefined;
  let endPointHash: Buffer | undefined;
  let encrypted = false;
  let mayBeHttp = true;
  let httpInTls = false;
  const upgrade = async (direct: boolean) => {
    reader.release();
    const secured = await secure(socket, identify, onSocket);
    onSecure();
    ({ socket, serverName, endPointHash } = secured);
    encrypted = true;
    httpInTls = direct && secured.socket.alpnProtocol !== ALPN_POSTGRES;
    mayBeHttp = httpInTls;
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
    if (mayBeHttp && isCapital(first[0]!)) {
      reader.release();
      socket.unshift(first);
      return { kind: 'http', socket };
    }
    if (httpInTls) throw new ProtocolError('direct TLS connection without ALPN "postgresql"');
    const packet = await readPacket(reader, first);
    if (packet.kind === 'startup' || packet.kind === 'cancel') {
      return { kind: 'postgres', socket, reader, packet, encrypted, endPointHash, serverName, cleartext: false };
    }
    mayBeHttp = false;
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

const isCapital = (byte: number) => byte >= 0x41 && byte <= 0x5a;

/** The startup or cancel packet of a client that needs no encryption from us. */
export async function readFirstPacket(reader: SocketReader): Promise<Opening['packet']> {
  const packet = await readPacket(reader, await reader.bytes(1));
  if (packet.kind === 'startup' || packet.kind === 'cancel') return packet;
  throw new ProtocolError('unexpected encryption request');
}

async function readPacket(reader: SocketReader, first: Buffer): Promise<StartupPacket> {
  const length = Buffer.concat([first, await reader.bytes(3)]).readUInt32BE(0);
  if (length < MIN_STARTUP_PACKET_BYTES || length > MAX_STARTUP_PACKET_BYTES) {
    throw new ProtocolError('invalid length of startup packet');
  }
  return parseStartupPacket(await reader.bytes(length - 4));
}

interface Secured {
  socket: TLSSocket;
  serverName: string | undefined;
  endPointHash: Buffer | undefined;
}

async function secure(
  plain: Socket,
  identify: (serverName: string | undefined) => Promise<Identity>,
  onSocket: (socket: Socket) => void,
): Promise<Secured> {
  const unnamed = await identify(undefined);
  return new Promise((resolve, reject) => {
    let serverName: string | undefined;
    let { endPointHash } = unnamed;
    const socket = new TLSSocket(plain, {
      isServer: true,
      secureContext: unnamed.context,
      ALPNProtocols: [ALPN_POSTGRES, ALPN_HTTP],
      SNICallback: (name, done) => {
        serverName = name;
        const answer = async () => {
          const identity = await identify(name);
          ({ endPointHash } = identity);
          return identity.context;
        };
        callbackify(answer)(done);
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
      resolve({ socket, serverName, endPointHash });
    });
  });
}
