/**
 * What the pooler reads and writes itself; everything else passes as bytes.
 */
import { message } from '../../postgres/wire/messages.ts';

/** One end of a connection. A socket is one; tests have their own. */
export interface Wire {
  /** False: it holds more than it should, and says later that it has drained. */
  write(bytes: Buffer): boolean;
  end(): unknown;
  end(bytes: Buffer): unknown;
  pause(): unknown;
  resume(): unknown;
  destroy(): unknown;
  /** Bytes that were written and that it still refers to. */
  readonly writableLength: number;
  readonly destroyed: boolean;
}

export const HEADER = 5;

export const FROM_CLIENT = {
  bind: 0x42,
  close: 0x43,
  describe: 0x44,
  execute: 0x45,
  functionCall: 0x46,
  flush: 0x48,
  parse: 0x50,
  query: 0x51,
  sync: 0x53,
  terminate: 0x58,
  copyDone: 0x63,
  copyData: 0x64,
  copyFail: 0x66,
} as const;

export const FROM_SERVER = {
  parseComplete: 0x31,
  bindComplete: 0x32,
  closeComplete: 0x33,
  commandComplete: 0x43,
  dataRow: 0x44,
  error: 0x45,
  copyInResponse: 0x47,
  emptyQuery: 0x49,
  noData: 0x6e,
  parameterStatus: 0x53,
  portalSuspended: 0x73,
  rowDescription: 0x54,
  copyData: 0x64,
  copyBothResponse: 0x57,
  readyForQuery: 0x5a,
} as const;

/** Transaction status as ReadyForQuery tells it. */
export const IDLE = 0x49;

/** ReadyForQuery without a transaction. */
export const READY = message(FROM_SERVER.readyForQuery, Buffer.from([IDLE]));

/** The length field that stands at `at`. */
export function lengthAt(bytes: Buffer, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** `name` and `text` in latin1: the bytes of the client's own encoding. */
export function parseMessage(name: string, text: string): Buffer {
  const length = 4 + name.length + 1 + text.length;
  const bytes = Buffer.allocUnsafe(1 + length);
  bytes[0] = FROM_CLIENT.parse;
  bytes.writeUInt32BE(length, 1);
  bytes.write(name, HEADER, 'latin1');
  bytes[HEADER + name.length] = 0;
  bytes.write(text, HEADER + name.length + 1, 'latin1');
  return bytes;
}

const STATEMENT = 0x53;

export function closeMessage(name: string): Buffer {
  const length = 4 + 1 + name.length + 1;
  const bytes = Buffer.allocUnsafe(1 + length);
  bytes[0] = FROM_CLIENT.close;
  bytes.writeUInt32BE(length, 1);
  bytes[HEADER] = STATEMENT;
  bytes.write(name, HEADER + 1, 'latin1');
  bytes[1 + length - 1] = 0;
  return bytes;
}

/** ASCII. */
export function queryMessage(sql: string): Buffer {
  const length = 4 + sql.length + 1;
  const bytes = Buffer.allocUnsafe(1 + length);
  bytes[0] = FROM_CLIENT.query;
  bytes.writeUInt32BE(length, 1);
  bytes.write(sql, HEADER, 'latin1');
  bytes[length] = 0;
  return bytes;
}

/** The beginning of a message whose statement name changes: `lead` is what stands before that name in its body. */
export function renamed(type: number, length: number, lead: Buffer, oldName: number, name: string): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER + lead.length + name.length + 1);
  bytes[0] = type;
  bytes.writeUInt32BE(length - oldName + name.length, 1);
  lead.copy(bytes, HEADER);
  bytes.write(name, HEADER + lead.length, 'latin1');
  bytes[HEADER + lead.length + name.length] = 0;
  return bytes;
}
