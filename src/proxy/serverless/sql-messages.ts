/**
 * The messages of the extended protocol as SQL over HTTP uses them: unnamed statements, text both ways.
 */
import { HEADER_BYTES } from '../../postgres/wire/messages.ts';
import type { Query } from './sql-request.ts';

export const ANSWER = {
  commandComplete: 0x43,
  copyBoth: 0x57,
  copyIn: 0x47,
  copyOut: 0x48,
  dataRow: 0x44,
  emptyQuery: 0x49,
  error: 0x45,
  notice: 0x4e,
  notification: 0x41,
  parameterStatus: 0x53,
  readyForQuery: 0x5a,
  rowDescription: 0x54,
} as const;

const PARSE = 0x50;
const BIND = 0x42;
const QUERY = 0x51;
/** Describe of the unnamed portal, then Execute of it without a limit of rows. */
const DESCRIBE_EXECUTE = Buffer.from([0x44, 0, 0, 0, 6, 0x50, 0, 0x45, 0, 0, 0, 9, 0, 0, 0, 0, 0]);
const SYNC = Buffer.from([0x53, 0, 0, 0, 4]);

/** One pipeline that ends with Sync: after an error the rest of it is skipped. */
export function pipeline(queries: readonly Pick<Query, 'text' | 'parameters'>[]): Buffer {
  const parts: Buffer[] = [];
  for (const query of queries) parts.push(parse(query.text), bind(query.parameters), DESCRIBE_EXECUTE);
  parts.push(SYNC);
  return Buffer.concat(parts);
}

export function simpleQuery(text: string): Buffer {
  const sizeBytes = Buffer.byteLength(text);
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + sizeBytes + 1);
  begin(bytes, QUERY);
  bytes.write(text, HEADER_BYTES);
  bytes[bytes.length - 1] = 0;
  return bytes;
}

function begin(bytes: Buffer, type: number): void {
  bytes[0] = type;
  bytes.writeInt32BE(bytes.length - 1, 1);
}

/** Unnamed statement; parameter types are Postgres's to find. */
function parse(text: string): Buffer {
  const sizeBytes = Buffer.byteLength(text);
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + 1 + sizeBytes + 1 + 2);
  begin(bytes, PARSE);
  bytes[HEADER_BYTES] = 0;
  bytes.write(text, HEADER_BYTES + 1);
  bytes.fill(0, HEADER_BYTES + 1 + sizeBytes);
  return bytes;
}

function bind(parameters: readonly (string | null)[]): Buffer {
  const sizes = parameters.map((text) => (text === null ? -1 : Buffer.byteLength(text)));
  const valuesBytes = sizes.reduce((sum, size) => sum + 4 + Math.max(0, size), 0);
  // Names of portal and statement, no formats (text), count, values, no result formats (text).
  const bytes = Buffer.alloc(HEADER_BYTES + 2 + 2 + 2 + valuesBytes + 2);
  begin(bytes, BIND);
  let at = HEADER_BYTES + 4;
  at = bytes.writeUInt16BE(parameters.length, at);
  for (const [index, text] of parameters.entries()) {
    at = bytes.writeInt32BE(sizes[index]!, at);
    if (text !== null) at += bytes.write(text, at);
  }
  return bytes;
}

export interface Field {
  name: string;
  tableId: number;
  columnNumber: number;
  typeId: number;
  typeSize: number;
  typeModifier: number;
}

/** `raw` is the whole message, here and below. */
export function parseRowDescription(raw: Buffer): Field[] {
  const fields: Field[] = [];
  let at = HEADER_BYTES + 2;
  for (let left = raw.readUInt16BE(HEADER_BYTES); left > 0; left -= 1) {
    const end = raw.indexOf(0, at);
    fields.push({
      name: raw.toString('utf8', at, end),
      tableId: raw.readUInt32BE(end + 1),
      columnNumber: raw.readInt16BE(end + 5),
      typeId: raw.readUInt32BE(end + 7),
      typeSize: raw.readInt16BE(end + 11),
      typeModifier: raw.readInt32BE(end + 13),
    });
    at = end + 19;
  }
  return fields;
}

/** The text before the first NUL of a body. */
export function parseTag(raw: Buffer): string {
  return raw.toString('utf8', HEADER_BYTES, raw.length - 1);
}

/** ErrorResponse by field letter. */
export function parseErrorMessage(raw: Buffer): Map<string, string> {
  const fields = new Map<string, string>();
  for (const field of raw.toString('utf8', HEADER_BYTES, raw.length).split('\0')) {
    if (field !== '') fields.set(field[0]!, field.slice(1));
  }
  return fields;
}
