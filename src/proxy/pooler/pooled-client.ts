/**
 * One client of a pool. It holds a server connection from the first message of a transaction or pipeline until that is
 * over, and has only its statements, its settings and less than one message of input in between.
 */
import { errorResponse } from '../../postgres/wire/messages.ts';
import { noTraffic } from '../connections.ts';
import type { Traffic } from '../connections.ts';
import { MAX_STATEMENT_BYTES, sendMessages } from './client-messages.ts';
import { TrackedParameters } from './parameters.ts';
import type { ServerConnection } from './server-connection.ts';
import { ClientStatements } from './statements.ts';
import type { Definitions } from './statements.ts';
import { FROM_CLIENT, HEADER, READY, lengthAt } from './wire.ts';
import type { Wire } from './wire.ts';

/** Who lends it server connections. */
export interface ClientOwner {
  /** It will be lent one, sooner or later, or `fail`. */
  want(client: PooledClient): void;
  noLongerWants(client: PooledClient): void;
  /** It has gone in the middle of something. */
  abandon(server: ServerConnection): void;
  /** It has gone; its transaction is still open. */
  rollBack(server: ServerConnection): void;
  /** How long what was asked before a goodbye may take. */
  readonly graceMs: number;
}

/** Up to here a first message is waited for before a server connection is asked for. */
const MAX_WHOLE_BYTES = 64 * 1024;
/** Who waits is not read beyond this. */
const MAX_WAITING_BYTES = 16 * 1024;
/** How much can be said again when a server connection turns out to have been dead. */
const MAX_REPEATED_BYTES = 8 * 1024;
const EMPTY = Buffer.alloc(0);

export class PooledClient {
  readonly wire: Wire;
  readonly owner: ClientOwner;
  readonly parameters = new TrackedParameters();
  readonly statements: ClientStatements;
  readonly definitions: Definitions;
  /** What it sends, gets and asks is added there. */
  traffic: Traffic = noTraffic();
  server: ServerConnection | undefined;
  /** Body of the Parse that made its unnamed statement, as latin1; undefined: none. */
  unnamed: string | undefined;
  unnamedEffects = 0;
  unnamedVersion = 0;
  waitingSinceMs = 0;
  isWaiting = false;
  isSlow = false;
  gone = false;
  /** Bytes of a message that are still to come; the message is being passed on. */
  passing = 0;
  #leaving = false;
  #pending: Buffer = EMPTY;
  /** So much has been asked that the rest of it waits for answers. */
  #holding = false;
  #paused = false;
  /** What was said since the server connection was lent, while that is little. */
  #repeatable: Buffer | undefined;
  #graceTimer: NodeJS.Timeout | undefined;
  readonly #onGone: () => void;

  constructor(wire: Wire, owner: ClientOwner, definitions: Definitions, onGone: () => void) {
    this.wire = wire;
    this.owner = owner;
    this.definitions = definitions;
    this.statements = new ClientStatements(definitions);
    this.#onGone = onGone;
  }

  /** What the client sent. */
  receive(chunk: Buffer): void {
    if (this.gone || this.#leaving) return;
    this.traffic.bytesIn += chunk.length;
    const bytes = this.#pending.length > 0 ? Buffer.concat([this.#pending, chunk]) : chunk;
    this.#pending = EMPTY;
    if (this.server) {
      this.#repeatable = undefined;
      this.#say(bytes);
      return;
    }
    this.#pending = bytes;
    if (this.isWaiting) this.#regulate();
    else this.#considerPending();
  }

  /** A server connection is at its disposal. */
  begin(server: ServerConnection): void {
    this.server = server;
    this.isWaiting = false;
    const bytes = this.#pending;
    this.#pending = EMPTY;
    this.#repeatable = bytes.length <= MAX_REPEATED_BYTES ? bytes : undefined;
    this.#say(bytes);
    // It left while it waited.
    if (this.#leaving && this.server === server) this.leave();
  }

  /** Its transaction is over and the server connection is no longer its own. */
  finish(): void {
    this.server = undefined;
    this.#repeatable = undefined;
    if (this.#leaving) this.#go();
    else if (this.#pending.length > 0) this.#considerPending();
    else this.#regulate();
  }

  /** An answer. */
  deliver(bytes: Buffer): void {
    this.#repeatable = undefined;
    this.traffic.bytesOut += bytes.length;
    if (this.wire.destroyed) return;
    if (!this.wire.write(bytes)) this.isSlow = true;
  }

  drained(): void {
    this.isSlow = false;
    this.server?.wire.resume();
  }

  serverDrained(): void {
    this.#regulate();
  }

  /** Everything that was sent has been answered; a transaction may still be open. */
  answeredAll(server: ServerConnection): void {
    if (this.#holding && !server.isSettled) {
      const bytes = this.#pending;
      this.#pending = EMPTY;
      this.#say(bytes);
      return;
    }
    if (this.#leaving && server.isQuiet && !server.isSettled) this.#leaveTransaction(server);
  }

  /** The server connection has ended. True: what the client said has to be said again, to another. */
  lostServer(server: ServerConnection, wasUnread: boolean): void {
    const repeatable = this.#repeatable;
    this.server = undefined;
    this.#repeatable = undefined;
    if (wasUnread && repeatable && !server.answered && this.passing === 0 && !this.#leaving) {
      // Asked once, however often it is said.
      this.traffic.queries -= server.requests.queries();
      server.undoAll();
      this.#pending = repeatable;
      this.#want();
      return;
    }
    this.fail(server.isMidMessage ? EMPTY : (server.lastError ?? CONNECTION_LOST));
  }

  /** It is not welcome, and will be told so by others. */
  dismiss(): void {
    this.gone = true;
    this.#onGone();
  }

  /** Ends the session with an error. */
  fail(error: Buffer): void {
    if (this.gone) return;
    if (!this.wire.destroyed) this.wire.end(this.server?.isMidMessage ? EMPTY : error);
    this.#forsake();
    this.#go();
  }

  /** Of what it waits to ask, nothing shall be done. Only a single request can be taken back. */
  cancelWaiting(): void {
    if (!this.isWaiting || !isOneRequest(this.#pending)) return;
    this.isWaiting = false;
    this.owner.noLongerWants(this);
    this.#pending = EMPTY;
    this.deliver(CANCELLED);
    this.#regulate();
  }

  /** It said goodbye or closed its side: what it has asked for is still done, within reason. */
  leave(): void {
    if (this.gone) return;
    this.#leaving = true;
    // What it waits to ask will be asked.
    if (this.isWaiting) return;
    const { server } = this;
    if (!server) return this.#go();
    // In the middle of a message nothing else can be said.
    if (server.copyIn || this.passing > 0) return this.#disappear();
    if (server.isQuiet) return this.#leaveTransaction(server);
    this.#graceTimer ??= setTimeout(() => this.#disappear(), this.owner.graceMs).unref();
  }

  /** The connection is broken. */
  closed(): void {
    if (!this.gone) this.#disappear();
  }

  /** Keeps what cannot be passed on yet. */
  keep(bytes: Buffer, pause: boolean): void {
    this.#pending = bytes.length > 0 ? Buffer.from(bytes) : EMPTY;
    this.#holding = pause;
  }

  #say(bytes: Buffer): void {
    const server = this.server!;
    const outcome = sendMessages(this, server, bytes);
    if (outcome === 'terminate') this.leave();
    else if (outcome !== undefined) this.fail(outcome);
    else {
      this.#regulate();
      // It may have said nothing that Postgres answers.
      if (server.isSettled && !this.#holding) server.owner.settled(server);
    }
  }

  /** Reads on, unless there is somewhere too much already. */
  #regulate(): void {
    const tooMuch = this.server !== undefined && this.server.wire.writableLength > MAX_WHOLE_BYTES;
    // To pause and to read on are calls of the system, and most who wait have nothing more to say.
    const enough = this.isWaiting && this.#pending.length > MAX_WAITING_BYTES;
    const pause = enough || this.#holding || tooMuch;
    if (pause === this.#paused || this.wire.destroyed) return;
    this.#paused = pause;
    if (pause) this.wire.pause();
    else this.wire.resume();
  }

  /** Asks for a server connection once there is something to say to it. */
  #considerPending(): void {
    const bytes = this.#skipMeaningless(this.#pending);
    this.#pending = bytes;
    this.#holding = false;
    if (bytes.length === 0) return this.#regulate();
    if (bytes[0] === FROM_CLIENT.terminate) return this.leave();
    if (bytes.length < HEADER) return this.#keepListening(bytes);
    const length = lengthAt(bytes, 1);
    if (length < 4) return this.fail(MALFORMED);
    const isNamedParse = bytes[0] === FROM_CLIENT.parse && bytes[HEADER] !== 0;
    const enough = isNamedParse ? MAX_STATEMENT_BYTES + MAX_WHOLE_BYTES : MAX_WHOLE_BYTES;
    if (bytes.length < 1 + length && bytes.length < enough) return this.#keepListening(bytes);
    this.#want();
  }

  /** Outside a transaction Postgres ignores these. */
  #skipMeaningless(bytes: Buffer): Buffer {
    let at = 0;
    if (this.passing > 0) {
      at = Math.min(this.passing, bytes.length);
      this.passing -= at;
    }
    while (bytes.length - at >= HEADER && isMeaningless(bytes[at]!) && lengthAt(bytes, at + 1) >= 4) {
      const end = at + 1 + lengthAt(bytes, at + 1);
      this.passing = Math.max(0, end - bytes.length);
      at = Math.min(end, bytes.length);
    }
    return at === 0 ? bytes : bytes.subarray(at);
  }

  #keepListening(bytes: Buffer): void {
    this.#pending = Buffer.from(bytes);
    this.#regulate();
  }

  #want(): void {
    this.isWaiting = true;
    this.owner.want(this);
    this.#regulate();
  }

  #leaveTransaction(server: ServerConnection): void {
    this.server = undefined;
    server.client = undefined;
    this.owner.rollBack(server);
    this.#go();
  }

  #disappear(): void {
    this.#forsake();
    this.#go();
  }

  #forsake(): void {
    const { server } = this;
    this.server = undefined;
    if (!server) return;
    server.client = undefined;
    this.owner.abandon(server);
  }

  #go(): void {
    if (this.gone) return;
    this.gone = true;
    clearTimeout(this.#graceTimer);
    if (this.isWaiting) this.owner.noLongerWants(this);
    this.isWaiting = false;
    this.#pending = EMPTY;
    this.statements.end();
    if (!this.wire.destroyed) {
      this.wire.end();
      this.wire.resume();
    }
    this.#onGone();
  }
}

function isMeaningless(type: number): boolean {
  return (
    type === FROM_CLIENT.flush ||
    type === FROM_CLIENT.copyData ||
    type === FROM_CLIENT.copyDone ||
    type === FROM_CLIENT.copyFail
  );
}

/** Whole messages, of which the last and no other is one that Postgres answers with ReadyForQuery. */
function isOneRequest(bytes: Buffer): boolean {
  for (let at = 0; bytes.length - at >= HEADER;) {
    const type = bytes[at];
    at += 1 + lengthAt(bytes, at + 1);
    if (type === FROM_CLIENT.query || type === FROM_CLIENT.sync) return at === bytes.length;
    if (type === FROM_CLIENT.functionCall) return false;
  }
  return false;
}

const CANCELLED = Buffer.concat([
  errorResponse({ severity: 'ERROR', code: '57014', message: 'canceling statement due to user request' }),
  READY,
]);
const CONNECTION_LOST = errorResponse({
  severity: 'FATAL',
  code: '08006',
  message: 'the connection to the compute was lost',
});
const MALFORMED = errorResponse({ severity: 'FATAL', code: '08P01', message: 'invalid message length' });
