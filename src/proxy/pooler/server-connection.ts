/**
 * One session at the compute, lent to one client at a time.
 *
 * It reads the headers of what Postgres answers, matches answers with requests, keeps the pooler's own exchanges to
 * itself and passes everything else on as it came. It knows when nothing is outstanding and no transaction is open:
 * only then may it serve somebody else.
 */
import type { PooledClient } from './pooled-client.ts';
import { withClientsName } from './error-names.ts';
import type { StatementNames } from './error-names.ts';
import { TrackedParameters } from './parameters.ts';
import { REQUEST, Requests } from './requests.ts';
import { effectsOfText, factsOfTag, isCommonTag, resetSql, EFFECT } from './session-state.ts';
import { ServerStatements } from './statements.ts';
import type { Definition } from './statements.ts';
import { FROM_SERVER, HEADER, IDLE, closeMessage, lengthAt, queryMessage } from './wire.ts';
import type { Wire } from './wire.ts';

/** What to do about a request. Each has at most one. */
export interface RequestRef {
  /** Postgres skipped it, or refused it: as if it had never been sent. */
  undo?: (skipped: boolean) => void;
  /** It is about the unnamed statement. */
  unnamed?: boolean;
  /** The client's name that a Parse is to make. */
  parses?: string;
  /** What a Bind or Describe needs. */
  uses?: Definition;
  /** How the client calls its statement, and how Postgres does. */
  names?: StatementNames;
  /** The error that a rejected message gets. */
  error?: Buffer;
  /** The pooler's own query has ended; with its error, if it failed. */
  done?: (error: Buffer | undefined) => void;
}

/** Who lends it. */
export interface ServerOwner {
  /** Nothing is outstanding and no transaction open. Called again and again until it is taken back. */
  settled(server: ServerConnection): void;
  rolesChanged(): void;
  /** How to stop what it is running; resolves when Postgres has been told, with false when that is not certain. */
  cancel(server: ServerConnection): Promise<boolean>;
  closed(server: ServerConnection): void;
}

export interface ServerConnectionOptions {
  wire: Wire;
  owner: ServerOwner;
  maxStatements: number;
  openedAtMs: number;
  /** `used`: somebody was being served. */
  onEnd: (used: boolean) => void;
}

/** Longer ones are passed on without a look. */
const MAX_INSPECTED_BYTES = 64 * 1024;
const CACHED_PLAN_CODES = ['C0A000', 'C26000'];

export class ServerConnection {
  readonly wire: Wire;
  readonly owner: ServerOwner;
  readonly requests = new Requests<RequestRef>();
  readonly parameters = new TrackedParameters();
  readonly statements: ServerStatements;
  readonly openedAtMs: number;
  idleSinceMs = 0;
  client: PooledClient | undefined;
  /** Whose unnamed statement it holds. */
  unnamedOwner: PooledClient | undefined;
  /** What has to be reset before the next client. */
  effects: number = EFFECT.none;
  /** Postgres reads COPY data from the client. */
  copyIn = false;
  /** It must not serve anybody again. */
  unfit = false;
  dead = false;
  /** Cancel requests that are on their way to it. */
  cancels = 0;
  /** Its last words: a FATAL error while nobody was being answered. */
  lastError: Buffer | undefined;
  /** Anything was passed to the present client. */
  answered = false;
  #status = IDLE;
  #failing = false;
  #skippedSyncs = false;
  #held: Buffer | undefined;
  #passing = 0;
  #dropping = false;
  #replacement: Buffer | undefined;
  #ownError: Buffer | undefined;
  #ended: (() => void)[] = [];
  readonly #onEnd: (used: boolean) => void;

  constructor(options: ServerConnectionOptions) {
    this.wire = options.wire;
    this.owner = options.owner;
    this.openedAtMs = options.openedAtMs;
    this.#onEnd = options.onEnd;
    this.statements = new ServerStatements(options.maxStatements);
  }

  /** No transaction is open, nothing is outstanding, and no message is half said. */
  get isSettled(): boolean {
    return !this.requests.unsynced && this.#status === IDLE && !this.copyIn && this.#passing === 0;
  }

  /** Every request has been answered, whether or not a transaction is open. */
  get isQuiet(): boolean {
    return this.requests.size === 0 && !this.copyIn && this.#passing === 0;
  }

  /** The client has got the beginning of a message and waits for the rest: nothing else can be said to it. */
  get isMidMessage(): boolean {
    return this.#passing > 0 && !this.#dropping;
  }

  /** Runs statements of the pooler's own; nothing of it reaches a client. */
  runOwn(sql: string, done: (error: Buffer | undefined) => void): void {
    // A simple query takes the unnamed statement with it.
    this.unnamedOwner = undefined;
    this.requests.push(REQUEST.ownQuery, { done });
    this.wire.write(queryMessage(sql));
  }

  reset(done: (error: Buffer | undefined) => void): void {
    const { effects } = this;
    this.effects = EFFECT.none;
    if ((effects & EFFECT.statements) !== 0) this.statements.clear();
    this.runOwn(resetSql(effects), done);
  }

  /** Messages that close what is not needed any more, to go in front of others. */
  garbage(): Buffer[] {
    return this.statements.takeGarbage().map((name) => {
      this.requests.push(REQUEST.ownClose, { undo: () => this.statements.discard(name) });
      return closeMessage(name);
    });
  }

  noteText(bytes: Buffer, from: number, to: number): void {
    this.effects |= effectsOfText(bytes, from, to);
  }

  /** Takes what Postgres sent. True: nobody refers to the chunk any more. */
  receive(chunk: Buffer): boolean {
    const bytes = this.#held ? Buffer.concat([this.#held, chunk]) : chunk;
    this.#held = undefined;
    const size = bytes.length;
    let from = 0;
    let at = 0;
    if (this.#passing > 0) {
      at = Math.min(this.#passing, size);
      this.#passing -= at;
      if (this.#dropping) from = at;
    }
    while (size - at >= HEADER) {
      const end = at + 1 + lengthAt(bytes, at + 1);
      if (end < at + HEADER) return this.#broken();
      if (end > size && isInspected(bytes[at]!) && end - at <= MAX_INSPECTED_BYTES) break;
      const forward = this.#take(bytes[at]!, bytes, at, Math.min(end, size));
      if (!forward) {
        if (at > from) this.#forward(bytes, from, at);
        from = Math.min(end, size);
        if (this.#replacement) this.#forwardReplacement();
      }
      if (end > size) {
        this.#passing = end - size;
        this.#dropping = !forward;
        at = size;
        break;
      }
      at = end;
    }
    if (at > from) this.#forward(bytes, from, at);
    if (at < size) this.#held = Buffer.from(bytes.subarray(at));
    const isFree = (this.client?.wire.writableLength ?? 0) === 0;
    this.#afterChunk();
    if (this.client?.isSlow) this.wire.pause();
    return isFree;
  }

  /** The connection has ended. */
  end(): void {
    if (this.dead) return;
    this.dead = true;
    this.#onEnd(this.client !== undefined);
    this.owner.closed(this);
  }

  #broken(): boolean {
    this.unfit = true;
    this.wire.destroy();
    return false;
  }

  #forward(bytes: Buffer, from: number, to: number): void {
    const { client } = this;
    if (!client) return;
    this.answered = true;
    client.deliver(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }

  #forwardReplacement(): void {
    const bytes = this.#replacement!;
    this.#replacement = undefined;
    this.#forward(bytes, 0, bytes.length);
  }

  #afterChunk(): void {
    while (this.#ended.length > 0) this.#ended.shift()!();
    if (this.requests.size > 0) return;
    if (this.lastError && !this.client) {
      // It died while it was idle; its socket will say so in a moment, which is too late for a client that comes now.
      this.wire.destroy();
      return this.end();
    }
    if (this.client) this.client.answeredAll(this);
    if (this.isSettled && !this.dead) this.owner.settled(this);
  }

  /** True: for the client. */
  #take(type: number, bytes: Buffer, at: number, end: number): boolean {
    if (type === FROM_SERVER.dataRow) return this.requests.head() !== REQUEST.ownQuery;
    if (type === FROM_SERVER.readyForQuery) return this.#ready(bytes[at + HEADER]!);
    if (type === FROM_SERVER.parameterStatus) return this.#parameter(bytes, at, end);
    const head = this.requests.head();
    if (head === REQUEST.ownQuery) {
      if (type === FROM_SERVER.error) this.#ownError = Buffer.from(bytes.subarray(at, end));
      return false;
    }
    switch (type) {
      case FROM_SERVER.parseComplete:
        return this.requests.shift() !== REQUEST.ownParse;
      case FROM_SERVER.closeComplete:
        return this.requests.shift() !== REQUEST.ownClose;
      case FROM_SERVER.bindComplete:
        this.requests.shift();
        return true;
      case FROM_SERVER.commandComplete:
        if (!isCommonTag(bytes, at + HEADER)) this.#noteTag(bytes.toString('latin1', at + HEADER, end - 1));
        this.copyIn = false;
        this.#skippedSyncs = false;
        if (head === REQUEST.execute) this.requests.shift();
        return true;
      case FROM_SERVER.emptyQuery:
      case FROM_SERVER.portalSuspended:
        if (head === REQUEST.execute) this.requests.shift();
        return true;
      case FROM_SERVER.rowDescription:
      case FROM_SERVER.noData:
        if (head === REQUEST.describe) this.requests.shift();
        return true;
      case FROM_SERVER.copyInResponse:
        this.#beginCopyIn();
        return true;
      case FROM_SERVER.error:
        return this.#error(head, bytes, at, end);
      default:
        return true;
    }
  }

  #beginCopyIn(): void {
    const { syncs, ended, abused } = this.requests.beginCopyIn();
    this.copyIn = !ended;
    this.#skippedSyncs = syncs > 0;
    // Whether Postgres takes those for an error or reads them after one cannot be known.
    if (abused) this.unfit = true;
  }

  /** A Sync of the client's while COPY data are read: Postgres will ignore it. */
  ignoreSync(): void {
    this.#skippedSyncs = true;
  }

  #noteTag(tag: string): void {
    const facts = factsOfTag(tag);
    this.effects |= facts.effects;
    if (facts.changesRoles) this.owner.rolesChanged();
    if (!facts.forgetsStatements) return;
    this.statements.clear();
    if (this.client) {
      // What was sent behind it comes into being after it.
      const names = this.requests.refs().flatMap((ref) => (ref.parses === undefined ? [] : [ref.parses]));
      this.client.statements.clear(new Set(names));
    }
  }

  #parameter(bytes: Buffer, at: number, end: number): boolean {
    const middle = bytes.indexOf(0, at + HEADER);
    const name = bytes.toString('latin1', at + HEADER, middle);
    const value = bytes.toString('latin1', middle + 1, end - 1);
    const own = this.requests.head() === REQUEST.ownQuery;
    if (this.parameters.set(name, value) && this.client && !own) this.client.parameters.set(name, value);
    return !own;
  }

  #error(head: number, bytes: Buffer, at: number, end: number): boolean {
    // The end of a COPY that skipped a Sync: whether it had read that Sync before it failed cannot be known.
    if (this.#skippedSyncs) this.unfit = true;
    this.copyIn = false;
    this.#skippedSyncs = false;
    if (head === REQUEST.none) {
      this.unfit = true;
      this.lastError = Buffer.from(bytes.subarray(at, end));
      return false;
    }
    const ofExtended = head !== REQUEST.query && head !== REQUEST.functionCall && head !== REQUEST.sync;
    if (ofExtended) this.#failing = true;
    if (head === REQUEST.bind || head === REQUEST.describe) this.#distrust(bytes, at, end);
    if (isFatal(bytes, at, end)) {
      this.unfit = true;
      // Held back until it is known whether the request was read at all; or told, and nothing is to be added.
      this.lastError = this.answered ? Buffer.alloc(0) : Buffer.from(bytes.subarray(at, end));
      return this.answered;
    }
    const ref = this.requests.headRef();
    if (head === REQUEST.reject) this.#replacement = ref!.error!;
    else if (ref?.names) this.#replacement = withClientsName(bytes.subarray(at, end), ref.names);
    return this.#replacement === undefined;
  }

  /** A plan that does not fit the tables any more: the next client shall have a new one. */
  #distrust(bytes: Buffer, at: number, end: number): void {
    const used = this.requests.headRef()?.uses;
    if (used && CACHED_PLAN_CODES.some((code) => bytes.subarray(at, end).includes(code, 0, 'latin1'))) {
      this.statements.drop(used);
    }
  }

  #ready(status: number): boolean {
    this.#status = status;
    this.copyIn = false;
    const forward = this.#settleRequests();
    this.requests.dropCopyEnds();
    this.requests.unsynced = this.requests.size > 0;
    return forward;
  }

  #settleRequests(): boolean {
    if (this.#failing) {
      this.#failing = false;
      this.#unwind();
      return true;
    }
    for (;;) {
      const ref = this.requests.headRef();
      const kind = this.requests.shift();
      if (kind === REQUEST.ownQuery) {
        const error = this.#ownError;
        this.#ownError = undefined;
        this.#ended.push(() => ref!.done!(error));
        return false;
      }
      // None: the Sync that a failed COPY did not read after all.
      if (kind === REQUEST.none) this.unfit = true;
      if (kind <= REQUEST.functionCall) return true;
      // An answer that never came leaves no trust in the count, but for ends of COPY, which have none.
      if (kind !== REQUEST.copyEnd) this.unfit = true;
    }
  }

  /** Everything up to the Sync was refused or skipped. The last first, so that each finds what it left. */
  #unwind(): void {
    const undone: RequestRef[] = [];
    // The first one is what failed, if it is one that can be undone at all.
    const failedItself = this.requests.headRef() !== undefined;
    for (;;) {
      const ref = this.requests.headRef();
      const kind = this.requests.shift();
      if (kind === REQUEST.sync || kind === REQUEST.none) break;
      if (ref) undone.push(ref);
    }
    const [failed] = undone;
    for (const ref of undone.reverse()) ref.undo?.(ref !== failed || !failedItself);
  }

  /** As if nothing of what is outstanding had ever been sent. */
  undoAll(): void {
    const refs = this.requests.refs();
    while (this.requests.size > 0) this.requests.shift();
    for (const ref of refs.reverse()) ref.undo?.(true);
  }
}

function isInspected(type: number): boolean {
  return (
    type === FROM_SERVER.readyForQuery ||
    type === FROM_SERVER.commandComplete ||
    type === FROM_SERVER.parameterStatus ||
    type === FROM_SERVER.error
  );
}

function isFatal(bytes: Buffer, at: number, end: number): boolean {
  const body = bytes.subarray(at, end);
  return body.includes('\0VFATAL\0', 0, 'latin1') || body.includes('\0VPANIC\0', 0, 'latin1');
}
