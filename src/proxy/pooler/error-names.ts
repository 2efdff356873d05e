/**
 * Errors of Postgres that name a prepared statement: the client knows it by another name.
 */
import { FROM_SERVER, HEADER } from './wire.ts';

export interface StatementNames {
  /** In latin1: the bytes of the client's own encoding. */
  client: string;
  server: string;
}

const MESSAGE_FIELD = 'M';

/** The ErrorResponse with the client's name in its message; undefined: it names no statement. */
export function withClientsName(error: Buffer, { client, server }: StatementNames): Buffer | undefined {
  const fields = error.toString('latin1', HEADER).split('\0');
  const at = fields.findIndex((field) => field.startsWith(MESSAGE_FIELD));
  const found = at < 0 ? -1 : fields[at]!.indexOf(server);
  if (found < 0) return undefined;
  const text = fields[at]!;
  fields[at] = text.slice(0, found) + client + text.slice(found + server.length);
  const body = Buffer.from(fields.join('\0'), 'latin1');
  const bytes = Buffer.allocUnsafe(HEADER + body.length);
  bytes[0] = FROM_SERVER.error;
  bytes.writeUInt32BE(4 + body.length, 1);
  body.copy(bytes, HEADER);
  return bytes;
}
