/**
 * A session at a compute that runs one pipeline at a time, and says when it must not be used again.
 */
import type { SocketAddress } from '../../control-plane/proxy-access.types.ts';
import { MessageFramer } from '../../postgres/wire/messages.ts';
import { ProtocolError } from '../../postgres/wire/startup.ts';
import { sendCancel } from '../cancel.ts';
import type { ComputeSession } from '../compute-login.ts';
import { ANSWER, parseErrorMessage } from './sql-messages.ts';
import { QueryInterrupted } from './sql-error.ts';

/** Postgres ended the session before it had read the query: nothing of it has run, so it may be sent again. */
export class NeverRead extends Error {}

/** Takes a whole message; what it throws ends the connection and rejects the run. */
export type MessageHandler = (type: number, raw: Buffer) => void;

/** As ReadyForQuery says: idle, in a transaction, in a failed one. */
export type TransactionStatus = 'I' | 'T' | 'E';

export interface SqlConnection {
  readonly address: SocketAddress;
  /** Of the process that serves it. */
  readonly processId: number;
  /** Closed, or in a state that nobody knows. */
  readonly broken: boolean;
  /**
   * Sends a pipeline and resolves at its ReadyForQuery. Rejects with NeverRead, QueryInterrupted, what the handler
   * threw, or the signal's reason after Postgres was asked to cancel; then the connection is broken.
   */
  run(pipeline: Buffer, handler: MessageHandler, signal?: AbortSignal): Promise<TransactionStatus>;
  /** Calls once when it breaks. */
  onBroken(listener: () => void): void;
  destroy(): void;
}

interface Run {
  handler: MessageHandler;
  resolve: (status: TransactionStatus) => void;
  reject: (error: unknown) => void;
  answered: boolean;
}

const ADMIN_SHUTDOWN = '57P01';
const MAX_MESSAGE_BYTES = 1024 * 1024 * 1024;

export function createSqlConnection(session: ComputeSession, address: SocketAddress): SqlConnection {
  const { compute: socket, processId, secretKey } = session;
  const framer = new MessageFramer(() => true, MAX_MESSAGE_BYTES);
  const listeners: (() => void)[] = [];
  let current: Run | undefined;
  let broken = false;

  const fail = (error: unknown) => {
    const ended = current;
    current = undefined;
    if (!broken) {
      broken = true;
      socket.destroy();
      for (const listener of listeners) listener();
    }
    ended?.reject(error);
  };
  const take = (type: number, raw: Buffer) => {
    if (!current) {
      // Settings and notifications may come at any time; anything else means the end.
      const harmless = type === ANSWER.parameterStatus || type === ANSWER.notification || type === ANSWER.notice;
      if (!harmless) fail(new QueryInterrupted());
      return;
    }
    if (type === ANSWER.readyForQuery) {
      const { resolve } = current;
      current = undefined;
      return resolve(String.fromCharCode(raw[5]!) as TransactionStatus);
    }
    if (type === ANSWER.error && !current.answered && parseErrorMessage(raw).get('C') === ADMIN_SHUTDOWN) {
      // Had it read the query, ParseComplete or another message would stand before this one.
      return fail(new NeverRead('the compute ended the session'));
    }
    if (type !== ANSWER.notice && type !== ANSWER.parameterStatus) current.answered = true;
    current.handler(type, raw);
  };
  socket.on('data', (chunk: Buffer) => {
    try {
      for (const frame of framer.push(chunk)) {
        if (broken) break;
        if (frame.kind === 'message') take(frame.type, frame.raw);
      }
    } catch (error) {
      fail(error);
    }
  });
  for (const event of ['error', 'end', 'close']) socket.on(event, () => fail(new QueryInterrupted()));
  if (session.rest.length > 0) fail(new ProtocolError('unexpected data behind the login'));
  else socket.resume();

  const run = (bytes: Buffer, handler: MessageHandler, signal?: AbortSignal): Promise<TransactionStatus> => {
    if (broken) return Promise.reject(new NeverRead('the connection is closed'));
    if (current) return Promise.reject(new ProtocolError('a query is under way on this connection'));
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        // A cancel of what has just ended would hit nobody: the session is not used again.
        void sendCancel({ address, processId, secretKey });
        fail(signal!.reason);
      };
      const settle = () => signal?.removeEventListener('abort', onAbort);
      current = {
        handler,
        answered: false,
        resolve: (status) => {
          settle();
          resolve(status);
        },
        reject: (error) => {
          settle();
          reject(error instanceof Error ? error : new QueryInterrupted());
        },
      };
      if (signal?.aborted) return onAbort();
      signal?.addEventListener('abort', onAbort, { once: true });
      socket.write(bytes);
    });
  };
  return {
    address,
    processId,
    get broken() {
      return broken;
    },
    run,
    onBroken: (listener) => void listeners.push(listener),
    destroy: () => fail(new QueryInterrupted()),
  };
}
