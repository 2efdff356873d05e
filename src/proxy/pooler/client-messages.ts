/**
 * From a client to its server connection: messages pass as they are, but for the names of prepared statements.
 *
 * Whatever is sent is written down in the server connection's requests. Of a message only the header and, where it has
 * one, the name is waited for; a Parse with a name is taken whole, because it may have to be said again elsewhere.
 */
import { errorResponse } from '../../postgres/wire/messages.ts';
import type { PooledClient } from './pooled-client.ts';
import { REQUEST } from './requests.ts';
import type { RequestRef, ServerConnection } from './server-connection.ts';
import { EFFECT, effectsOfText } from './session-state.ts';
import { NAME_PREFIX } from './statements.ts';
import type { Definition } from './statements.ts';
import { FROM_CLIENT, HEADER, closeMessage, lengthAt, parseMessage, renamed } from './wire.ts';

const STATEMENT = 0x53;
const MAX_NAMES_BYTES = 8 * 1024;
const MAX_STATEMENTS_BYTES = 16 * 1024 * 1024;
/** A Parse with a name has to be held whole. */
export const MAX_STATEMENT_BYTES = 4 * 1024 * 1024;
const MAX_STATEMENTS_PER_CLIENT = 10_000;
/** An unnamed statement that is longer cannot follow its client to another server connection. */
const MAX_UNNAMED_BYTES = 64 * 1024;
/** So many unanswered requests are enough for the moment. */
const MANY_REQUESTS = 1024;
const MAX_REQUESTS = 1024 * 1024;

/** More bytes are needed before the message can be passed on. */
const INCOMPLETE = -1;

interface Sending {
  client: PooledClient;
  server: ServerConnection;
  bytes: Buffer;
  /** What has been prepared for sending; the rest of the run begins at `from`. */
  parts: Buffer[];
  from: number;
}

/** Undefined, `terminate`, or the error that ends the session. */
export function sendMessages(
  client: PooledClient,
  server: ServerConnection,
  bytes: Buffer,
): Buffer | 'terminate' | undefined {
  const sending: Sending = { client, server, bytes, parts: [], from: 0 };
  const size = bytes.length;
  let at = 0;
  let outcome: Buffer | 'terminate' | undefined;
  let enough = false;
  if (client.passing > 0) {
    at = Math.min(client.passing, size);
    client.passing -= at;
  }
  while (size - at >= HEADER) {
    const length = lengthAt(bytes, at + 1);
    const type = bytes[at]!;
    if (length < 4) outcome = protocolViolation('invalid message length');
    else if (type === FROM_CLIENT.terminate) outcome = 'terminate';
    else if (server.copyIn && !mayComeInCopy(type)) outcome = protocolViolation('unexpected message during COPY');
    if (outcome !== undefined) break;
    if (mustWait(server, bytes, at)) {
      enough = true;
      break;
    }
    const taken = takeMessage(sending, type, at, at + 1 + length);
    if (taken === INCOMPLETE) break;
    if (typeof taken !== 'number') {
      outcome = taken;
      break;
    }
    at = taken;
    if (at > size) {
      client.passing = at - size;
      at = size;
    }
  }
  if (at > sending.from) sending.parts.push(bytes.subarray(sending.from, at));
  write(server, sending.parts);
  if (outcome === undefined && server.requests.size > MAX_REQUESTS) outcome = protocolViolation('pipeline is too long');
  if (outcome === undefined) client.keep(bytes.subarray(at), enough);
  return outcome;
}

function write(server: ServerConnection, parts: Buffer[]): void {
  if (parts.length === 1) server.wire.write(parts[0]!);
  else if (parts.length > 1) server.wire.write(Buffer.concat(parts));
}

function mayComeInCopy(type: number): boolean {
  switch (type) {
    case FROM_CLIENT.copyData:
    case FROM_CLIENT.copyDone:
    case FROM_CLIENT.copyFail:
    case FROM_CLIENT.sync:
    case FROM_CLIENT.flush:
      return true;
    default:
      return false;
  }
}

/**
 * Before the next piece of a pipeline it has to be known what became of the statements in the pieces before: an error
 * may have made Postgres skip them. And so many unanswered requests may be enough.
 */
function mustWait(server: ServerConnection, bytes: Buffer, at: number): boolean {
  const { requests } = server;
  if (requests.size === 0) return false;
  if (requests.open) return false;
  if (requests.size >= MANY_REQUESTS) return true;
  if (requests.named + requests.unnamed === 0) return false;
  switch (bytes[at]) {
    case FROM_CLIENT.parse:
      return requests.named > 0 || bytes[at + HEADER] !== 0;
    case FROM_CLIENT.query:
    case FROM_CLIENT.sync:
    case FROM_CLIENT.flush:
      return false;
    default:
      return true;
  }
}

/** Where the message ends, INCOMPLETE, or the error that ends the session. */
function takeMessage(sending: Sending, type: number, at: number, end: number): number | Buffer {
  const { client, server, bytes } = sending;
  switch (type) {
    case FROM_CLIENT.query:
      if (end > bytes.length) server.effects |= EFFECT.session;
      else server.noteText(bytes, at + HEADER, end - 1);
      client.unnamed = undefined;
      client.unnamedVersion += 1;
      server.unnamedOwner = undefined;
      client.traffic.queries += 1;
      server.requests.push(REQUEST.query);
      return end;
    case FROM_CLIENT.execute:
      client.traffic.queries += 1;
      server.requests.push(REQUEST.execute);
      return end;
    case FROM_CLIENT.sync:
      if (server.copyIn) server.ignoreSync();
      else server.requests.push(REQUEST.sync);
      return end;
    case FROM_CLIENT.bind:
      return takeBind(sending, at, end);
    case FROM_CLIENT.parse:
      return takeParse(sending, at, end);
    case FROM_CLIENT.describe:
    case FROM_CLIENT.close:
      return takeDescribeOrClose(sending, type, at, end);
    case FROM_CLIENT.flush:
    case FROM_CLIENT.copyData:
      return end;
    case FROM_CLIENT.copyDone:
    case FROM_CLIENT.copyFail:
      if (server.copyIn) server.copyIn = false;
      // Without anything that may turn out to be a COPY it is one that has failed already.
      else if (server.requests.size > 0) server.requests.push(REQUEST.copyEnd);
      return end;
    case FROM_CLIENT.functionCall:
      server.effects |= EFFECT.session;
      server.requests.push(REQUEST.functionCall);
      return end;
    default:
      return protocolViolation(`invalid frontend message type ${type}`);
  }
}

/** The end of the name that begins at `at`, INCOMPLETE, or an error. */
function nameEnd(bytes: Buffer, at: number, end: number): number | Buffer {
  const found = bytes.indexOf(0, at);
  if (found >= 0 && found < end) return found;
  if (end <= bytes.length || bytes.length - at > MAX_NAMES_BYTES) return protocolViolation('invalid name in message');
  return INCOMPLETE;
}

function takeBind(sending: Sending, at: number, end: number): number | Buffer {
  const { client, server, bytes } = sending;
  const portalEnd = nameEnd(bytes, at + HEADER, end);
  if (typeof portalEnd !== 'number' || portalEnd === INCOMPLETE) return portalEnd;
  const statementEnd = nameEnd(bytes, portalEnd + 1, end);
  if (typeof statementEnd !== 'number' || statementEnd === INCOMPLETE) return statementEnd;
  const named = renameStatement(sending, FROM_CLIENT.bind, at, portalEnd + 1, statementEnd);
  server.effects |= named?.uses ? named.uses.effects : client.unnamedEffects;
  server.requests.push(REQUEST.bind, named);
  return end;
}

function takeDescribeOrClose(sending: Sending, type: number, at: number, end: number): number | Buffer {
  const { server, bytes } = sending;
  if (end > bytes.length) {
    return end - at > MAX_NAMES_BYTES ? protocolViolation('invalid name in message') : INCOMPLETE;
  }
  const isStatement = bytes[at + HEADER] === STATEMENT;
  if (type === FROM_CLIENT.describe) {
    const named = isStatement ? renameStatement(sending, type, at, at + HEADER + 1, end - 1) : undefined;
    server.requests.push(REQUEST.describe, named);
  } else if (!isStatement) server.requests.push(REQUEST.close);
  else closeStatement(sending, at, end);
  return end;
}

function closeStatement(sending: Sending, at: number, end: number): void {
  const { client, server, bytes } = sending;
  if (end - 1 <= at + HEADER + 1) {
    const before = client.unnamed;
    client.unnamed = undefined;
    client.unnamedVersion += 1;
    server.unnamedOwner = client;
    const version = client.unnamedVersion;
    const undo = () => {
      if (client.unnamedVersion !== version) return;
      client.unnamedVersion = version - 1;
      client.unnamed = before;
      server.unnamedOwner = undefined;
    };
    server.requests.push(REQUEST.close, { undo, unnamed: true });
    return;
  }
  const name = bytes.toString('latin1', at + HEADER + 1, end - 1);
  const definition = client.statements.get(name);
  if (!definition) {
    if (name.startsWith(NAME_PREFIX)) replace(sending, at, end, closeMessage(foreign(name)));
    server.requests.push(REQUEST.close);
    return;
  }
  client.statements.delete(name, definition);
  if (definition.users === 0) server.statements.drop(definition);
  server.requests.push(REQUEST.close, { undo: () => client.statements.restore(name, definition) });
}

/**
 * Sees to it that Postgres knows the statement, under the name that it has there. The message begins at `at`, its
 * statement's name lies between `from` and `to`.
 */
function renameStatement(sending: Sending, type: number, at: number, from: number, to: number): RequestRef | undefined {
  const { client, server, bytes } = sending;
  if (from === to) {
    if (server.unnamedOwner !== client) bringUnnamed(sending, at);
    return undefined;
  }
  const name = bytes.toString('latin1', from, to);
  const definition = client.statements.get(name);
  // Postgres says that it does not exist; or it was made by SQL in this transaction.
  if (!definition && !name.startsWith(NAME_PREFIX)) return undefined;
  const known = definition ? (server.statements.find(definition) ?? bring(sending, at, definition)) : foreign(name);
  flush(sending, at);
  sending.parts.push(renamed(type, lengthAt(bytes, at + 1), bytes.subarray(at + HEADER, from), to - from, known));
  sending.from = to + 1;
  const names = { client: name, server: known };
  return definition ? { uses: definition, names } : { names };
}

/** A name of ours that the client has no right to. */
function foreign(name: string): string {
  return `client ${name}`;
}

/** Prepares on this server connection what the client has prepared elsewhere. */
function bring(sending: Sending, at: number, definition: Definition): string {
  const { server } = sending;
  const name = server.statements.add(definition);
  flush(sending, at);
  sending.parts.push(...server.garbage(), parseMessage(name, definition.text));
  server.requests.push(REQUEST.ownParse, { undo: () => server.statements.failed(definition, name) });
  return name;
}

function bringUnnamed(sending: Sending, at: number): void {
  const { client, server } = sending;
  flush(sending, at);
  server.unnamedOwner = client;
  const undo = () => void (server.unnamedOwner = undefined);
  if (client.unnamed === undefined) {
    // What another client left must not be found.
    sending.parts.push(closeMessage(''));
    server.requests.push(REQUEST.ownClose, { undo, unnamed: true });
  } else {
    sending.parts.push(parseMessage('', client.unnamed));
    server.requests.push(REQUEST.ownParse, { undo, unnamed: true });
  }
}

function flush(sending: Sending, at: number): void {
  if (at > sending.from) sending.parts.push(sending.bytes.subarray(sending.from, at));
  sending.from = at;
}

function replace(sending: Sending, at: number, end: number, message: Buffer): void {
  flush(sending, at);
  sending.parts.push(message);
  sending.from = end;
}

function takeParse(sending: Sending, at: number, end: number): number | Buffer {
  const { client, server, bytes } = sending;
  if (end <= at + HEADER) return protocolViolation('invalid message format');
  if (bytes.length <= at + HEADER) return INCOMPLETE;
  if (bytes[at + HEADER] === 0) return takeUnnamedParse(sending, at, end);
  if (end - at > MAX_STATEMENT_BYTES) return protocolViolation('statement is too long for a pooled connection');
  if (end > bytes.length) return INCOMPLETE;
  const nameStop = nameEnd(bytes, at + HEADER, end);
  if (typeof nameStop !== 'number') return nameStop;
  const name = bytes.toString('latin1', at + HEADER, nameStop);
  const refusal = refusalOf(client, name, end - nameStop);
  if (refusal) {
    replace(sending, at, end, parseMessage('ballast rejects', "'\0\0\0"));
    server.requests.push(REQUEST.reject, { error: refusal });
    return end;
  }
  const definition = client.definitions.take(
    server.parameters.statementContext,
    bytes.toString('latin1', nameStop + 1, end),
    () => effectsOfText(bytes, nameStop + 1, end),
  );
  // Always a real one, so that its errors and types are those of now; the copy that is there is closed.
  const serverName = server.statements.add(definition);
  client.statements.set(name, definition);
  flush(sending, at);
  sending.parts.push(...server.garbage(), parseMessage(serverName, definition.text));
  sending.from = end;
  const undo = () => {
    client.statements.delete(name, definition);
    server.statements.failed(definition, serverName);
  };
  server.requests.push(REQUEST.parse, { undo, parses: name, names: { client: name, server: serverName } });
  return end;
}

function takeUnnamedParse(sending: Sending, at: number, end: number): number {
  const { client, server, bytes } = sending;
  if (end > bytes.length && end - at <= MAX_UNNAMED_BYTES) return INCOMPLETE;
  const before = { text: client.unnamed, effects: client.unnamedEffects };
  const small = end <= bytes.length && end - at <= MAX_UNNAMED_BYTES;
  client.unnamed = small ? bytes.toString('latin1', at + HEADER + 1, end) : undefined;
  client.unnamedEffects = small ? effectsOfText(bytes, at + HEADER + 1, end) : EFFECT.session;
  server.unnamedOwner = client;
  client.unnamedVersion += 1;
  const version = client.unnamedVersion;
  const undo = (skipped: boolean) => {
    // A later one may have taken its place already.
    if (client.unnamedVersion !== version) return;
    client.unnamedVersion = version - 1;
    client.unnamed = skipped ? before.text : undefined;
    client.unnamedEffects = before.effects;
    server.unnamedOwner = undefined;
  };
  server.requests.push(REQUEST.parse, { undo, unnamed: true });
  return end;
}

function refusalOf(client: PooledClient, name: string, sizeBytes: number): Buffer | undefined {
  if (client.statements.get(name)) {
    const message = `prepared statement "${Buffer.from(name, 'latin1').toString('utf8')}" already exists`;
    return errorResponse({ severity: 'ERROR', code: '42P05', message });
  }
  const full =
    client.statements.size >= MAX_STATEMENTS_PER_CLIENT || client.statements.bytes + sizeBytes > MAX_STATEMENTS_BYTES;
  if (!full) return undefined;
  const message = `too many prepared statements on a pooled connection (at most ${MAX_STATEMENTS_PER_CLIENT})`;
  return errorResponse({ severity: 'ERROR', code: '53400', message });
}

function protocolViolation(message: string): Buffer {
  return errorResponse({ severity: 'FATAL', code: '08P01', message });
}
