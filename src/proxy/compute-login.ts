/**
 * One login at a compute over its Unix socket, with the keys that the client's exchange revealed.
 *
 * What Postgres says before ReadyForQuery is kept for the client; its cancel key is kept from it.
 */
import type { Socket } from 'node:net';
import type { SocketAddress } from '../control-plane/proxy-access.types.ts';
import { errorMessage } from '../lib/errors.ts';
import {
  AUTHENTICATION,
  BACKEND,
  HEADER_BYTES,
  message,
  parseErrorFields,
  saslInitialResponse,
  saslResponse,
} from '../postgres/wire/messages.ts';
import type { Message } from '../postgres/wire/messages.ts';
import { createScramClient, SCRAM_SHA_256 } from '../postgres/wire/scram.ts';
import { ProtocolError, startupMessage } from '../postgres/wire/startup.ts';
import { connectSocket } from './chunk-socket.ts';
import { PostgresRefusal } from './refusal.ts';

/** The compute is not there, or is on its way up or down: wake it and try again. */
export class ComputeAway extends Error {}

export interface LoginKeys {
  clientKey: Buffer;
  serverKey: Buffer;
}

interface Greeting {
  /** ParameterStatus and NoticeResponse as Postgres sent them. */
  greeting: Buffer;
  readyForQuery: Buffer;
  processId: number;
  secretKey: Buffer;
}

export interface ComputeSession extends Greeting {
  /** Paused. */
  compute: Socket;
  /** What came behind ReadyForQuery already. */
  rest: Buffer;
}

const MAX_LOGIN_MESSAGE_BYTES = 1024 * 1024;
/** cannot_connect_now, admin_shutdown, crash_shutdown. */
const AWAY_CODES = new Set(['57P03', '57P01', '57P02']);

export interface LoginOptions {
  address: SocketAddress;
  parameters: ReadonlyMap<string, string>;
  /** Undefined: the compute lets Ballast in as this role. */
  keys: LoginKeys | undefined;
  timeoutMs: number;
  /** The client went away, or waited long enough. */
  signal: AbortSignal;
}

/** Rejects with ComputeAway, with PostgresRefusal, or with the signal's reason. */
export async function logIn(options: LoginOptions): Promise<ComputeSession> {
  options.signal.throwIfAborted();
  try {
    return await converse(options);
  } catch (error) {
    options.signal.throwIfAborted();
    if (error instanceof PostgresRefusal && !AWAY_CODES.has(error.code)) throw error;
    throw new ComputeAway(errorMessage(error), { cause: error });
  }
}

function converse({ address, parameters, keys, timeoutMs, signal }: LoginOptions): Promise<ComputeSession> {
  return new Promise((resolve, reject) => {
    let received: Buffer = Buffer.alloc(0);
    const socket = connectSocket(address.path);
    const login = createLogin(keys, (bytes) => socket.write(bytes));
    const onData = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      try {
        for (;;) {
          const next = takeMessage(received);
          if (!next) return;
          received = next.rest;
          const greeting = login(next.message);
          if (!greeting) continue;
          settle();
          // Whatever comes next is for the relay.
          socket.pause();
          return resolve({ compute: socket, rest: received, ...greeting });
        }
      } catch (error) {
        fail(error);
      }
    };
    const fail = (error: unknown) => {
      settle();
      socket.on('error', () => undefined);
      socket.destroy();
      reject(error instanceof Error ? error : new Error(String(error)));
    };
    const onEnd = () => fail(new Error('the compute closed the connection'));
    const onAbort = () => fail(signal.reason);
    const timer = setTimeout(() => fail(new Error('the compute did not answer in time')), timeoutMs);
    const settle = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      for (const event of ['end', 'close']) socket.off(event, onEnd);
      socket.off('error', fail);
      socket.off('data', onData);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    for (const event of ['end', 'close']) socket.on(event, onEnd);
    socket.on('error', fail);
    socket.on('data', onData);
    socket.write(startupMessage(parameters));
  });
}

/** Undefined while the message is incomplete. */
function takeMessage(received: Buffer): { message: Message; rest: Buffer } | undefined {
  if (received.length < HEADER_BYTES) return undefined;
  const end = received.readUInt32BE(1) + 1;
  if (end < HEADER_BYTES || end > MAX_LOGIN_MESSAGE_BYTES) throw new ProtocolError('invalid message length');
  if (received.length < end) return undefined;
  return {
    message: { type: received[0]!, body: received.subarray(HEADER_BYTES, end) },
    rest: received.subarray(end),
  };
}

/** Takes message by message; gives what there is to know once Postgres is ready. */
function createLogin(
  keys: LoginKeys | undefined,
  send: (bytes: Buffer) => void,
): (next: Message) => Greeting | undefined {
  const answer = createAuthenticator(keys, send);
  const greeting: Buffer[] = [];
  let greetingBytes = 0;
  let processId = 0;
  let secretKey: Buffer = Buffer.alloc(4);
  return ({ type, body }) => {
    switch (type) {
      case BACKEND.authentication:
        answer({ type, body });
        return undefined;
      case BACKEND.parameterStatus:
      case BACKEND.notice:
        greetingBytes += body.length;
        if (greetingBytes > MAX_LOGIN_MESSAGE_BYTES) throw new ProtocolError('the greeting is too long');
        greeting.push(message(type, body));
        return undefined;
      case BACKEND.backendKeyData:
        processId = body.readInt32BE(0);
        secretKey = Buffer.from(body.subarray(4));
        return undefined;
      case BACKEND.readyForQuery:
        return { greeting: Buffer.concat(greeting), readyForQuery: message(type, body), processId, secretKey };
      case BACKEND.error:
        throw new PostgresRefusal(message(type, body), parseErrorFields(body).code);
      default:
        throw new ProtocolError(`unexpected message ${type} during login`);
    }
  };
}

function createAuthenticator(keys: LoginKeys | undefined, send: (bytes: Buffer) => void): (request: Message) => void {
  const scram = keys && createScramClient(keys);
  return ({ body }) => {
    const data = body.toString('latin1', 4);
    const method = body.readInt32BE(0);
    if (method === AUTHENTICATION.ok) return;
    // It has not been told yet that the role is one of JWTs; a wake tells it.
    if (!scram) throw new ProtocolError('the compute asks for a password');
    switch (method) {
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
