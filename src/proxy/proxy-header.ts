/**
 * The PROXY protocol, version 2: a load balancer says in front of everything else whose connection it passes on. Where
 * it is switched on, every connection has to begin with it: otherwise anybody could claim any address.
 *
 * Only the first bytes are looked at before the rest is asked for, so that whoever speaks something else is told off at
 * once.
 */
import { isIP } from 'node:net';
import type { Socket } from 'node:net';
import { ProtocolError } from '../postgres/wire/startup.ts';
import type { SocketReader } from '../postgres/wire/socket-reader.ts';
import { Refusal } from './refusal.ts';

const SIGNATURE = Buffer.from([0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]);
const VERSION_1 = Buffer.from('PROXY ', 'latin1');
const VERSION_2 = 2;
const COMMAND = { local: 0, proxy: 1 } as const;
/** Protocol families, each with stream sockets. */
const FAMILY = { unspecified: 0x00, tcp4: 0x11, tcp6: 0x21 } as const;
const TCP4_BYTES = 12;
const TCP6_BYTES = 36;
/** Addresses and TLVs; load balancers send some hundred bytes. */
const MAX_LENGTH = 4 * 1024;

/**
 * The client's address; undefined: the connection is the load balancer's own (a health check), or it does not know.
 * Rejects with ProtocolError, with Refusal for version 1, or with ConnectionClosed.
 */
export async function readProxyHeader(reader: SocketReader): Promise<string | undefined> {
  const start = await reader.bytes(VERSION_1.length);
  if (start.equals(VERSION_1)) {
    throw new Refusal('PROXY protocol version 1 is not supported: the load balancer must send version 2', {
      code: '08P01',
      severity: 'FATAL',
    });
  }
  if (!start.equals(SIGNATURE.subarray(0, start.length))) throw new ProtocolError('no PROXY protocol header');
  const rest = await reader.bytes(SIGNATURE.length - start.length + 4);
  const at = SIGNATURE.length - start.length;
  if (!rest.subarray(0, at).equals(SIGNATURE.subarray(start.length))) {
    throw new ProtocolError('no PROXY protocol header');
  }
  const command = rest[at]! & 0x0f;
  const family = rest[at + 1]!;
  const length = rest.readUInt16BE(at + 2);
  if (rest[at]! >> 4 !== VERSION_2) throw new ProtocolError('unknown version of the PROXY protocol');
  if (length > MAX_LENGTH) throw new ProtocolError('the PROXY protocol header is too long');
  const body = await reader.bytes(length);
  if (command === COMMAND.local) return undefined;
  if (command !== COMMAND.proxy) throw new ProtocolError('unknown command of the PROXY protocol');
  return sourceAddress(family, body);
}

function sourceAddress(family: number, body: Buffer): string | undefined {
  if (family === FAMILY.unspecified) return undefined;
  if (family === FAMILY.tcp4 && body.length >= TCP4_BYTES) return body.subarray(0, 4).join('.');
  if (family === FAMILY.tcp6 && body.length >= TCP6_BYTES) {
    const words = Array.from({ length: 8 }, (_, i) => body.readUInt16BE(i * 2).toString(16));
    return mappedAddress(body) ?? words.join(':');
  }
  throw new ProtocolError('the PROXY protocol header has no address that can be used');
}

/** IPv4 in IPv6 is IPv4. */
function mappedAddress(bytes: Buffer): string | undefined {
  const isMapped = bytes.subarray(0, 10).every((byte) => byte === 0) && bytes.readUInt16BE(10) === 0xffff;
  return isMapped ? bytes.subarray(12, 16).join('.') : undefined;
}

/** From now on that is where the socket's other end is, to everybody who asks. */
export function setRemoteAddress(socket: Socket, address: string): void {
  if (isIP(address) === 0) throw new Error(`not an address: ${address}`);
  Object.defineProperty(socket, 'remoteAddress', { value: address });
}
