/**
 * One login at a compute over its Unix socket, with the keys that the client's exchange revealed.
 *
 * What Postgres says before ReadyForQuery is kept for the client; its cancel key is kept from it.
 */
import net from 'node:net';
import type { Socket } from 'node:net';
import type { SocketAddress } from '../control-plane/proxy-access.types.ts';
import { errorMessage } from '../lib/errors.ts';
import {
  AUTHENTICATION,
  BACKEND,
  message,
  parseErrorFields,
  saslInitialResponse,
  saslResponse,
} from '../postgres/wire/messages.ts';
import type { Message } from '../postgres/wire/messages.ts';
import { createScramClient, SCRAM_SHA_256 } from '../postgres/wire/scram.ts';
import { ProtocolError, startupMessage } from '../postgres/wire/startup.ts';
import { PostgresRefusal } from './refusal.ts';
import { createSocketReader } from './socket-reader.ts';
import type { SocketReader } from './socket-reader.ts';

/** The compute is not there, or is on its way up or down: wake it and try again. */
export class ComputeAway extends Error {}

export interface LoginKeys {
  clientKey: Buffer;
  serverKey: Buffer;
}

export interface ComputeSession {
  socket: Socket;
  /** ParameterStatus and NoticeResponse as Postgres sent them. */
  greeting: Buffer;
  readyForQuery: Buffer;
  processId: number;
  secretKey: Buffer;
}

const MAX_LOGIN_MESSAGE_BYTES = 1024 * 1024;
/** cannot_connect_now, admin_shutdown, crash_shutdown. */
const AWAY_CODES = new Set(['57P03', '57P01', '57P02']);

export interface LoginOptions {
  address: SocketAddress;
  parameters: ReadonlyMap<string, string>;
  keys: LoginKeys;
  timeoutMs: number;
  /** The client went away, or waited long enough. */
  signal: AbortSignal;
}

/** Rejects with ComputeAway, with PostgresRefusal, or with the signal's reason. */
export async function logIn(options: LoginOptions): Promise<ComputeSession> {
  options.signal.throwIfAborted();
  const socket = net.connect({ path: options.address.path, allowHalfOpen: true });
  const reader = createSocketReader(socket);
  const stop = () => socket.destroy();
  const timer = setTimeout(stop, options.timeoutMs);
  options.signal.addEventListener('abort', stop, { once: true });
  let done = false;
  try {
    socket.write(startupMessage(options.parameters));
    const session = await converse(reader, socket, options.keys);
    done = true;
    return session;
  } catch (error) {
    options.signal.throwIfAborted();
    if (error instanceof PostgresRefusal && !AWAY_CODES.has(error.code)) throw error;
    throw new ComputeAway(errorMessage(error), { cause: error });
  } finally {
    clearTimeout(timer);
    options.signal.removeEventListener('abort', stop);
    reader.release();
    if (!done) {
      socket.on('error', () => undefined);
      socket.destroy();
    }
  }
}

async function converse(reader: SocketReader, socket: Socket, keys: LoginKeys): Promise<ComputeSession> {
  const answer = createAuthenticator(keys, (bytes) => socket.write(bytes));
  const greeting: Buffer[] = [];
  let processId = 0;
  let secretKey: Buffer = Buffer.alloc(4);
  for (;;) {
    const { type, body } = await reader.message(MAX_LOGIN_MESSAGE_BYTES);
    switch (type) {
      case BACKEND.authentication:
        answer({ type, body });
        break;
      case BACKEND.parameterStatus:
      case BACKEND.notice:
        greeting.push(message(type, body));
        break;
      case BACKEND.backendKeyData:
        processId = body.readInt32BE(0);
        secretKey = body.subarray(4);
        break;
      case BACKEND.readyForQuery:
        return { socket, greeting: Buffer.concat(greeting), readyForQuery: message(type, body), processId, secretKey };
      case BACKEND.error:
        throw new PostgresRefusal(message(type, body), parseErrorFields(body).code);
      default:
        throw new ProtocolError(`unexpected message ${type} during login`);
    }
  }
}

function createAuthenticator(keys: LoginKeys, send: (bytes: Buffer) => void): (request: Message) => void {
  const scram = createScramClient(keys);
  return ({ body }) => {
    const data = body.toString('latin1', 4);
    switch (body.readInt32BE(0)) {
      case AUTHENTICATION.ok:
        return;
      case AUTHENTICATION.sasl:
        if (!data.split('\0').includes(SCRAM_SHA_256)) throw new ProtocolError('the compute does not offer SCRAM');
        return send(saslInitialResponse(SCRAM_SHA_256, scram.first()));
      case AUTHENTICATION.saslContinue:
        return send(saslResponse(scram.final(data)));
      case AUTHENTICATION.saslFinal:
        if (!scram.verify(data)) throw new ProtocolError('the compute does not know the verifier');
        return;
      default:
        throw new ProtocolError('the compute asks for another kind of authentication');
    }
  };
}
