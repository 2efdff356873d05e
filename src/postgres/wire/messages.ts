/**
 * Messages of protocol 3.0 that a proxy makes or reads itself; the rest it passes on as bytes.
 *
 * Layout: one type byte, int32 length (itself included, the type not), body. `MessageFramer` cuts a stream that
 * arrives in any pieces; its memory is bounded by the limit that the caller sets for messages it wants whole.
 */
import { ProtocolError } from './startup.ts';

export const HEADER_BYTES = 5;

/** Type bytes. Some letters mean different things in the two directions. */
export const FRONTEND = { query: 0x51, password: 0x70, terminate: 0x58 } as const;
export const BACKEND = {
  authentication: 0x52,
  backendKeyData: 0x4b,
  error: 0x45,
  negotiate: 0x76,
  notice: 0x4e,
  parameterStatus: 0x53,
  readyForQuery: 0x5a,
} as const;

export const AUTHENTICATION = { ok: 0, cleartext: 3, md5: 5, sasl: 10, saslContinue: 11, saslFinal: 12 } as const;

export interface Message {
  type: number;
  body: Buffer;
}

export function message(type: number, body: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + body.length);
  bytes[0] = type;
  bytes.writeInt32BE(body.length + 4, 1);
  body.copy(bytes, HEADER_BYTES);
  return bytes;
}

function int32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeInt32BE(value);
  return bytes;
}

export function authentication(code: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return message(BACKEND.authentication, Buffer.concat([int32(code), data]));
}

export function authenticationSasl(mechanisms: readonly string[]): Buffer {
  return authentication(AUTHENTICATION.sasl, Buffer.from(`${mechanisms.join('\0')}\0\0`, 'latin1'));
}

export function backendKeyData(processId: number, secretKey: Buffer): Buffer {
  return message(BACKEND.backendKeyData, Buffer.concat([int32(processId), secretKey]));
}

/** Says that only minor version 0 is spoken here, and which protocol options are not known. */
export function negotiateProtocolVersion(unknownOptions: readonly string[]): Buffer {
  const names = Buffer.from(unknownOptions.map((name) => `${name}\0`).join(''), 'utf8');
  return message(BACKEND.negotiate, Buffer.concat([int32(3 << 16), int32(unknownOptions.length), names]));
}

export interface ErrorFields {
  severity: string;
  /** SQLSTATE. */
  code: string;
  message: string;
}

export function errorResponse(fields: ErrorFields): Buffer {
  const clean = (text: string) => text.replaceAll('\0', '');
  const text = `S${clean(fields.severity)}\0C${clean(fields.code)}\0M${clean(fields.message)}\0\0`;
  return message(BACKEND.error, Buffer.from(text, 'utf8'));
}

/** A NoticeResponse of severity NOTICE. */
export function notice(text: string): Buffer {
  const fields = `SNOTICE\0VNOTICE\0C00000\0M${text.replaceAll('\0', '')}\0\0`;
  return message(BACKEND.notice, Buffer.from(fields, 'utf8'));
}

/** Reads ErrorResponse and NoticeResponse; a field that is missing is the empty string. */
export function parseErrorFields(body: Buffer): ErrorFields {
  const fields = new Map<string, string>();
  for (const field of body.toString('utf8').split('\0')) {
    if (field !== '') fields.set(field[0]!, field.slice(1));
  }
  return {
    severity: fields.get('V') ?? fields.get('S') ?? '',
    code: fields.get('C') ?? '',
    message: fields.get('M') ?? '',
  };
}

/** SASLInitialResponse: mechanism, NUL, int32 length (-1: none), data. Throws ProtocolError. */
export function parseSaslInitialResponse(body: Buffer): { mechanism: string; data: string } {
  const end = body.indexOf(0);
  if (end < 0 || body.length < end + 5) throw new ProtocolError('invalid SASL response');
  const length = body.readInt32BE(end + 1);
  const data = body.subarray(end + 5);
  if (length !== data.length) throw new ProtocolError('invalid SASL response');
  return { mechanism: body.toString('latin1', 0, end), data: data.toString('latin1') };
}

export function saslInitialResponse(mechanism: string, data: string): Buffer {
  const response = Buffer.from(data, 'latin1');
  return message(
    FRONTEND.password,
    Buffer.concat([Buffer.from(`${mechanism}\0`, 'latin1'), int32(response.length), response]),
  );
}

export function saslResponse(data: string): Buffer {
  return message(FRONTEND.password, Buffer.from(data, 'latin1'));
}

/** PasswordMessage: the text before its NUL. Throws ProtocolError. */
export function parsePassword(body: Buffer): string {
  if (body.length === 0 || body.indexOf(0) !== body.length - 1) throw new ProtocolError('invalid password packet');
  return body.toString('utf8', 0, body.length - 1);
}

/** What a framer hands out: bytes to pass on as they are, or a message that was wanted whole. */
export type Frame = { kind: 'bytes'; bytes: Buffer } | { kind: 'message'; type: number; raw: Buffer };

/**
 * Cuts a stream of messages. Those for which `wanted` says true come whole (header included), the others as pieces
 * of bytes, in order, so that large ones are never held.
 */
export class MessageFramer {
  readonly #wanted: (type: number) => boolean;
  readonly #maxMessageBytes: number;
  #held: Buffer = Buffer.alloc(0);
  /** Body bytes of an unwanted message that are still to come. */
  #passing = 0;
  /** Pieces of a wanted message, joined once when it is complete. */
  #pieces: Buffer[] = [];
  #missing = 0;

  /** A wanted message longer than `maxMessageBytes` (header included) is a ProtocolError. */
  constructor(wanted: (type: number) => boolean, maxMessageBytes: number) {
    this.#wanted = wanted;
    this.#maxMessageBytes = maxMessageBytes;
  }

  push(chunk: Buffer): Frame[] {
    const frames: Frame[] = [];
    let rest: Buffer = this.#held.length > 0 ? Buffer.concat([this.#held, chunk]) : chunk;
    this.#held = Buffer.alloc(0);
    while (rest.length > 0) {
      if (this.#missing > 0) rest = this.#collect(rest, frames);
      else if (this.#passing > 0) rest = this.#pass(rest, frames);
      else if (rest.length < HEADER_BYTES) {
        this.#held = Buffer.from(rest);
        break;
      } else this.#begin(rest);
    }
    return frames;
  }

  #begin(rest: Buffer): void {
    const length = rest.readInt32BE(1);
    if (length < 4) throw new ProtocolError('invalid message length');
    const total = length + 1;
    if (!this.#wanted(rest[0]!)) this.#passing = total;
    else if (total > this.#maxMessageBytes) throw new ProtocolError('message is too long');
    else this.#missing = total;
  }

  #pass(rest: Buffer, frames: Frame[]): Buffer {
    const bytes = rest.subarray(0, this.#passing);
    this.#passing -= bytes.length;
    frames.push({ kind: 'bytes', bytes });
    return rest.subarray(bytes.length);
  }

  #collect(rest: Buffer, frames: Frame[]): Buffer {
    const piece = rest.subarray(0, this.#missing);
    this.#missing -= piece.length;
    this.#pieces.push(piece);
    if (this.#missing === 0) {
      const raw = this.#pieces.length === 1 ? piece : Buffer.concat(this.#pieces);
      this.#pieces = [];
      frames.push({ kind: 'message', type: raw[0]!, raw });
    }
    return rest.subarray(piece.length);
  }
}
