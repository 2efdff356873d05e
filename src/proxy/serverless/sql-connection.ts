/**
 * A session at a compute that runs one pipeline at a time, and says when it must not be used again.
 *
 * What a pipeline leaves behind in the session is removed by a reset that is sent together with it: Postgres answers the
 * pipeline first, and nothing else is sent before it has confirmed the reset.
 */
import type { SocketAddress } from '../../control-plane/proxy-access.types.ts';
import { MessageFramer } from '../../postgres/wire/messages.ts';
import { ProtocolError } from '../../postgres/wire/startup.ts';
import { sendCancel } from '../cancel.ts';
import type { ComputeSession } from '../compute-login.ts';
import type { Departure } from './departure.ts';
import { ANSWER, parseErrorMessage, simpleQuery } from './sql-messages.ts';
import { QueryInterrupted } from './sql-error.ts';

/** Postgres ended the session before it had read the query: nothing of it has run, so it may be sent again. */
export class NeverRead extends Error {}

/** Takes a whole message; what it throws ends the connection and rejects the run. */
export type MessageHandler = (type: number, raw: Buffer) => void;

export interface SqlConnection {
  readonly address: SocketAddress;
  /** Of the process that serves it. */
  readonly processId: number;
  /** Closed, or in a state that nobody knows. */
  readonly broken: boolean;
  /**
   * Sends a pipeline and its reset, and resolves at the pipeline's ReadyForQuery. Rejects with NeverRead, QueryInterrupted, what the handler
   * threw, or the departure's reason after Postgres was asked to cancel; then the connection is broken.
   */
  run(pipeline: Buffer, handler: MessageHandler, departure?: Departure): Promise<void>;
  /** Reads no answers meanwhile. When it rejects, so does the run. */
  pauseUntil(ready: Promise<void>): void;
  /** Resolves when the reset behind the last pipeline is over; the connection is broken where it failed. */
  settled(): Promise<void>;
  /** Calls once when it breaks. */
  onBroken(listener: () => void): void;
  destroy(): void;
}

interface Run {
  handler: MessageHandler;
  resolve: () => void;
  reject: (error: unknown) => void;
  answered: boolean;
}

/** One statement: several would take Postgres several times as long, and there is one behind every query. */
const RESET = simpleQuery('DISCARD ALL');
/** Of a session that was left in a transaction, in which the other cannot run. */
const ROLLBACK_AND_RESET = Buffer.concat([simpleQuery('ROLLBACK'), RESET]);
const IDLE = 0x49;
const ADMIN_SHUTDOWN = '57P01';
const MAX_MESSAGE_BYTES = 1024 * 1024 * 1024;

export function createSqlConnection(session: ComputeSession, address: SocketAddress): SqlConnection {
  const { compute: socket, processId, secretKey } = session;
  const framer = new MessageFramer(() => true, MAX_MESSAGE_BYTES);
  const listeners: (() => void)[] = [];
  let current: Run | undefined;
  /** Its answers come behind those of the current run. */
  let resetting = false;
  /** The run has left a transaction behind; its end is under way. */
  let leftOpen = false;
  let rollingBack = false;
  let whenSettled: (() => void) | undefined;
  let broken = false;

  const fail = (error: unknown) => {
    const ended = current;
    current = undefined;
    resetting = false;
    if (!broken) {
      broken = true;
      socket.destroy();
      for (const listener of listeners) listener();
    }
    ended?.reject(error);
    whenSettled?.();
  };
  const takeOfReset = (type: number, raw: Buffer) => {
    if (type === ANSWER.error && !leftOpen) return fail(new Error('the session could not be reset'));
    if (type !== ANSWER.readyForQuery) return;
    if (leftOpen) {
      // What failed is the reset inside of the transaction.
      leftOpen = false;
      rollingBack = true;
      socket.write(ROLLBACK_AND_RESET);
      return;
    }
    if (raw[5] !== IDLE) return fail(new Error('the session is still in a transaction'));
    if (rollingBack) return void (rollingBack = false);
    resetting = false;
    whenSettled?.();
  };
  const take = (type: number, raw: Buffer) => {
    if (!current && resetting) return takeOfReset(type, raw);
    if (!current) {
      // Settings and notifications may come at any time; anything else means the end.
      const harmless = type === ANSWER.parameterStatus || type === ANSWER.notification || type === ANSWER.notice;
      if (!harmless) fail(new QueryInterrupted());
      return;
    }
    if (type === ANSWER.readyForQuery) {
      const { resolve } = current;
      current = undefined;
      leftOpen = raw[5] !== IDLE;
      return resolve();
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

  const run = (bytes: Buffer, handler: MessageHandler, departure?: Departure): Promise<void> => {
    if (broken) return Promise.reject(new NeverRead('the connection is closed'));
    if (current || resetting) return Promise.reject(new ProtocolError('a query is under way on this connection'));
    return new Promise((resolve, reject) => {
      let settle: () => void = () => undefined;
      current = {
        handler,
        answered: false,
        resolve: () => {
          settle();
          resolve();
        },
        reject: (error) => {
          settle();
          reject(error instanceof Error ? error : new QueryInterrupted());
        },
      };
      resetting = true;
      const forget = departure?.whenGone(() => {
        // A cancel of what has just ended would hit nobody: the session is not used again.
        void sendCancel({ address, processId, secretKey });
        fail(departure.reason());
      });
      if (forget) settle = forget;
      if (!broken) socket.write(Buffer.concat([bytes, RESET]));
    });
  };
  return {
    address,
    processId,
    get broken() {
      return broken;
    },
    run,
    pauseUntil: (ready) => {
      socket.pause();
      ready.then(() => socket.resume(), fail);
    },
    settled: () =>
      new Promise((resolve) => {
        whenSettled = resolve;
        if (!resetting) resolve();
      }),
    onBroken: (listener) => void listeners.push(listener),
    destroy: () => fail(new QueryInterrupted()),
  };
}
