/**
 * What a client may send first: SSLRequest, GSSENCRequest, CancelRequest or StartupMessage (protocol 3.x).
 *
 * Layout: int32 length (itself included), int32 code, rest. Parsers here take the packet without its length and throw
 * ProtocolError on anything that Postgres would not accept either.
 */
export const MIN_STARTUP_PACKET_BYTES = 8;
/** As in Postgres. */
export const MAX_STARTUP_PACKET_BYTES = 10_000;

const CANCEL_REQUEST_CODE = 80877102;
const SSL_REQUEST_CODE = 80877103;
const GSSENC_REQUEST_CODE = 80877104;
const MAX_CANCEL_KEY_BYTES = 256;

/** The other side does not speak the protocol; nothing can be answered for sure. */
export class ProtocolError extends Error {}

export interface StartupMessage {
  kind: 'startup';
  major: number;
  minor: number;
  parameters: Map<string, string>;
}

export type StartupPacket =
  | { kind: 'ssl' }
  | { kind: 'gssenc' }
  | { kind: 'cancel'; processId: number; secretKey: Buffer }
  | StartupMessage;

/** `packet` is everything after the length. */
export function parseStartupPacket(packet: Buffer): StartupPacket {
  if (packet.length < 4) throw new ProtocolError('invalid length of startup packet');
  const code = packet.readUInt32BE(0);
  switch (code) {
    case SSL_REQUEST_CODE:
    case GSSENC_REQUEST_CODE:
      if (packet.length !== 4) throw new ProtocolError('invalid length of startup packet');
      return { kind: code === SSL_REQUEST_CODE ? 'ssl' : 'gssenc' };
    case CANCEL_REQUEST_CODE:
      if (packet.length < 9 || packet.length > 8 + MAX_CANCEL_KEY_BYTES) {
        throw new ProtocolError('invalid length of cancel request');
      }
      return { kind: 'cancel', processId: packet.readInt32BE(4), secretKey: packet.subarray(8) };
  }
  const major = code >>> 16;
  const minor = code & 0xffff;
  // Other majors have another layout; the caller answers with what it speaks.
  const parameters = major === 3 ? parseParameters(packet.subarray(4)) : new Map<string, string>();
  return { kind: 'startup', major, minor, parameters };
}

function parseParameters(body: Buffer): Map<string, string> {
  const parameters = new Map<string, string>();
  let at = 0;
  const next = (): string => {
    const end = body.indexOf(0, at);
    if (end < 0) throw new ProtocolError('invalid startup packet layout: expected terminator');
    const text = body.toString('utf8', at, end);
    at = end + 1;
    return text;
  };
  for (;;) {
    const name = next();
    if (name === '') break;
    // The last one counts, as in Postgres.
    parameters.set(name, next());
  }
  if (at !== body.length) throw new ProtocolError('invalid startup packet layout: expected terminator as last byte');
  return parameters;
}

/** StartupMessage of protocol 3.0. Values must not hold NUL. */
export function startupMessage(parameters: Iterable<readonly [string, string]>): Buffer {
  let text = '';
  for (const [name, value] of parameters) text += `${name}\0${value}\0`;
  const body = Buffer.from(`${text}\0`, 'utf8');
  const packet = Buffer.allocUnsafe(8 + body.length);
  packet.writeInt32BE(packet.length, 0);
  packet.writeInt32BE(3 << 16, 4);
  body.copy(packet, 8);
  return packet;
}

export function cancelRequest(processId: number, secretKey: Buffer): Buffer {
  const packet = Buffer.allocUnsafe(12 + secretKey.length);
  packet.writeInt32BE(packet.length, 0);
  packet.writeInt32BE(CANCEL_REQUEST_CODE, 4);
  packet.writeInt32BE(processId, 8);
  secretKey.copy(packet, 12);
  return packet;
}
