/**
 * The server connections of one role in one database of an endpoint, and the clients that take turns with them.
 *
 * First come, first served. Opening a server connection costs a fork and a login, so a waiting client is often served
 * sooner by one that comes back: beyond a few, another is opened only when somebody has waited for longer than that
 * takes. A server connection is idle, lent, being cleaned after a client that left something in its session, or held back until a cancel request has arrived.
 * What dies while idle is forgotten: the next client opens another, and with it wakes the compute.
 */
import os from 'node:os';
import { errorResponse } from '../../postgres/wire/messages.ts';
import { TRACKED, settingSql } from './parameters.ts';
import type { TrackedParameters } from './parameters.ts';
import type { ClientOwner, PooledClient } from './pooled-client.ts';
import type { ServerConnection, ServerOwner } from './server-connection.ts';
import { Definitions } from './statements.ts';

export interface PoolLimits {
  /** How long a client waits for a server connection. */
  queryWaitTimeoutMs: number;
  /** After so long without a client a server connection is closed. */
  serverIdleTimeoutMs: number;
  /** Older ones are closed when they come back. */
  serverLifetimeMs: number;
  /** How long what a client asked for before it left may take. */
  goneClientGraceMs: number;
  /** Opened at the same time. */
  maxOpening: number;
  /** Up to so many are opened as soon as somebody waits; more only for those who wait for longer than opening takes. */
  eagerServers: number;
}

export const DEFAULT_POOL_LIMITS: PoolLimits = {
  queryWaitTimeoutMs: 120_000,
  serverIdleTimeoutMs: 600_000,
  serverLifetimeMs: 3_600_000,
  goneClientGraceMs: 5_000,
  maxOpening: 4,
  eagerServers: Math.max(4, 2 * os.availableParallelism()),
};

export interface PoolOptions {
  limits: PoolLimits;
  nowMs: () => number;
  /** Opens one, with this pool as its owner. Rejects with what shall be told to clients. */
  open: (owner: ServerOwner) => Promise<ServerConnection>;
  maxServers: () => number;
  /** Makes room when Postgres has none: true when something was closed elsewhere. */
  makeRoom: () => boolean;
  /** Postgres refused for lack of room. */
  isFull: (error: unknown) => boolean;
  cancel: (server: ServerConnection) => Promise<boolean>;
  rolesChanged: () => void;
  /** A client had to wait for a server connection. */
  waited?: (ms: number) => void;
  errorBytes: (error: unknown) => Buffer;
  /** Nobody is here any more. */
  onEmpty: () => void;
}

export interface PoolStats {
  clients: number;
  waiting: number;
  idle: number;
  servers: number;
  opening: number;
}

const SWEEP_MS = 5_000;
/** What opening is thought to take before any has been measured, and at most: one that woke a compute tells nothing. */
const FIRST_OPEN_MS = 10;
const MAX_OPEN_MS = 100;
/** The weight of the latest measurement. */
const SMOOTHING = 0.2;
const QUERY_WAIT_TIMEOUT = errorResponse({ severity: 'FATAL', code: '08P01', message: 'query_wait_timeout' });

export class Pool implements ClientOwner, ServerOwner {
  readonly definitions = new Definitions();
  readonly clients = new Set<PooledClient>();
  readonly graceMs: number;
  readonly #options: PoolOptions;
  readonly #servers = new Set<ServerConnection>();
  /** The last one used is the first to be used again, so that those beyond need can be closed. */
  readonly #idle: ServerConnection[] = [];
  /** In the order in which they came. */
  readonly #waiting = new Set<PooledClient>();
  #opening = 0;
  #firstOpened: Promise<void> | undefined;
  /** Average of late. */
  #openMs = FIRST_OPEN_MS;
  #patience: NodeJS.Timeout | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.graceMs = options.limits.goneClientGraceMs;
  }

  stats(): PoolStats {
    return {
      clients: this.clients.size,
      waiting: this.#waiting.size,
      idle: this.#idle.length,
      servers: this.#servers.size,
      opening: this.#opening,
    };
  }

  /** Resolves when there has been a server connection; rejects with the reason why there is none. */
  warm(): Promise<void> {
    this.#firstOpened ??= this.#openOne().finally(() => (this.#firstOpened = undefined));
    return this.#firstOpened;
  }

  want(client: PooledClient): void {
    const server = this.#waiting.size === 0 ? this.#idle.pop() : undefined;
    if (server) return this.#lend(server, client);
    client.waitingSinceMs = this.#options.nowMs();
    this.#waiting.add(client);
    this.#watch();
    this.#openMore();
  }

  noLongerWants(client: PooledClient): void {
    this.#waiting.delete(client);
  }

  settled(server: ServerConnection): void {
    const { client } = server;
    if (client) {
      if (client.passing > 0) return;
      server.client = undefined;
      // Before the next client: whatever of its input is still in this call belongs to the next transaction.
      this.#takeBack(server);
      client.finish();
    }
  }

  abandon(server: ServerConnection): void {
    server.client = undefined;
    server.unfit = true;
    // What it runs is of use to nobody; without this Postgres would notice only when it has something to say.
    if (server.isQuiet || server.dead) this.#destroy(server);
    else void this.#options.cancel(server).finally(() => this.#destroy(server));
  }

  rollBack(server: ServerConnection): void {
    server.client = undefined;
    // Behind an error, or within a piece of a pipeline, it would not be heard.
    if (server.unfit || server.dead || server.requests.unsynced) return this.#destroy(server);
    server.runOwn('ROLLBACK', (error) => {
      if (error) server.unfit = true;
      this.#takeBack(server);
    });
  }

  rolesChanged(): void {
    this.#options.rolesChanged();
  }

  /** Passes a client's cancel request to whatever serves it now. */
  async cancelFor(client: PooledClient): Promise<void> {
    const { server } = client;
    if (server) await this.cancel(server);
    else client.cancelWaiting();
  }

  /** Until it has arrived, the server connection is not lent to anybody else. */
  async cancel(server: ServerConnection): Promise<boolean> {
    server.cancels += 1;
    const certain = await this.#options.cancel(server);
    server.cancels -= 1;
    if (!certain) server.unfit = true;
    if (server.cancels === 0 && !server.client && this.#held.delete(server)) this.#takeBack(server);
    return certain;
  }

  closed(server: ServerConnection): void {
    this.#servers.delete(server);
    this.#held.delete(server);
    const at = this.#idle.indexOf(server);
    if (at >= 0) this.#idle.splice(at, 1);
    this.#openMore();
    this.#checkEmpty();
  }

  /** Closes the one that has been idle for longest. False: none is idle. */
  closeIdle(): boolean {
    const server = this.#idle.shift();
    if (server) this.#destroy(server);
    return server !== undefined;
  }

  leave(client: PooledClient): void {
    this.clients.delete(client);
    this.#checkEmpty();
  }

  /** Every client is told so, every server connection closed. */
  close(error: Buffer): void {
    this.#closed = true;
    clearInterval(this.#timer);
    clearTimeout(this.#patience);
    for (const client of this.clients) client.fail(error);
    for (const server of this.#servers) this.#destroy(server);
  }

  readonly #held = new Set<ServerConnection>();

  #takeBack(server: ServerConnection): void {
    if (server.dead) return;
    const { limits, nowMs } = this.#options;
    const tooOld = nowMs() - server.openedAtMs > limits.serverLifetimeMs;
    if (server.unfit || tooOld || this.#closed) return this.#destroy(server);
    if (server.effects !== 0) {
      return server.reset((error) => {
        if (error) server.unfit = true;
        this.#takeBack(server);
      });
    }
    if (server.cancels > 0) return void this.#held.add(server);
    server.wire.resume();
    const [next] = this.#waiting;
    if (next) {
      this.#waiting.delete(next);
      this.#options.waited?.(nowMs() - next.waitingSinceMs);
      return this.#lend(server, next);
    }
    server.idleSinceMs = nowMs();
    this.#idle.push(server);
    this.#watch();
  }

  #lend(server: ServerConnection, client: PooledClient): void {
    client.traffic.lends += 1;
    server.client = client;
    server.answered = false;
    if (server.parameters.key !== client.parameters.key) this.#bringParameters(server, client);
    client.begin(server);
  }

  #bringParameters(server: ServerConnection, client: PooledClient): void {
    const sql = settingSql(client.parameters, server.parameters);
    if (sql === '') return adopt(client.parameters, server.parameters);
    server.runOwn(sql, (error) => {
      if (server.client !== client) return;
      // As Postgres refuses a login with such a setting.
      if (error) client.fail(error);
      else adopt(client.parameters, server.parameters);
    });
  }

  #openMore(): void {
    const { limits, maxServers } = this.#options;
    let wanted = this.#waiting.size - this.#opening;
    while (!this.#closed && wanted > 0 && this.#opening < limits.maxOpening) {
      const count = this.#servers.size + this.#opening;
      if (count >= maxServers()) return;
      if (count >= limits.eagerServers) {
        wanted = this.#impatient() - this.#opening;
        if (wanted <= 0) return this.#lookAgain();
      }
      wanted -= 1;
      void this.#openOne().catch((error: unknown) => this.#openFailed(error));
    }
  }

  /** How many wait for longer than opening takes; no more are counted than can be opened at once. */
  #impatient(): number {
    const { limits, nowMs } = this.#options;
    const since = nowMs() - this.#openMs;
    let count = 0;
    for (const client of this.#waiting) {
      if (client.waitingSinceMs > since || count > limits.maxOpening) break;
      count += 1;
    }
    return count;
  }

  #lookAgain(): void {
    this.#patience ??= setTimeout(() => {
      this.#patience = undefined;
      this.#openMore();
    }, this.#openMs);
  }

  async #openOne(): Promise<void> {
    this.#opening += 1;
    const isFirst = this.#servers.size === 0;
    const beganMs = this.#options.nowMs();
    let server: ServerConnection;
    try {
      server = await this.#options.open(this);
    } finally {
      this.#opening -= 1;
    }
    if (!isFirst) {
      const tookMs = Math.min(MAX_OPEN_MS, this.#options.nowMs() - beganMs);
      this.#openMs += SMOOTHING * (tookMs - this.#openMs);
    }
    if (this.#closed) return server.wire.destroy() as void;
    this.#servers.add(server);
    this.#takeBack(server);
    this.#openMore();
  }

  /** Those who wait are served by what there is, if there is anything; else they are told. */
  #openFailed(error: unknown): void {
    if (this.#options.isFull(error)) {
      if (this.#options.makeRoom()) return this.#openMore();
      if (this.#servers.size > 0) return;
    }
    if (this.#servers.size > 0 || this.#opening > 0) return;
    const bytes = this.#options.errorBytes(error);
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const client of waiting) client.fail(bytes);
    this.#checkEmpty();
  }

  #destroy(server: ServerConnection): void {
    server.wire.destroy();
    server.end();
  }

  #checkEmpty(): void {
    if (this.clients.size > 0 || this.#servers.size > 0 || this.#opening > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    clearTimeout(this.#patience);
    this.#patience = undefined;
    this.#options.onEmpty();
  }

  #watch(): void {
    if (this.#timer || this.#closed) return;
    const { queryWaitTimeoutMs, serverIdleTimeoutMs } = this.#options.limits;
    this.#timer = setInterval(() => this.#sweep(), Math.min(SWEEP_MS, queryWaitTimeoutMs / 4, serverIdleTimeoutMs / 4));
    this.#timer.unref();
  }

  #sweep(): void {
    const { nowMs, limits } = this.#options;
    for (const client of this.#waiting) {
      if (nowMs() - client.waitingSinceMs < limits.queryWaitTimeoutMs) break;
      this.#waiting.delete(client);
      client.fail(QUERY_WAIT_TIMEOUT);
    }
    while (this.#idle.length > 0 && nowMs() - this.#idle[0]!.idleSinceMs >= limits.serverIdleTimeoutMs)
      this.closeIdle();
    // When Postgres had no room there was nobody to ask again.
    this.#openMore();
    if (this.#waiting.size > 0 || this.#idle.length > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

/** The client's settings are what Postgres calls them. */
function adopt(wanted: TrackedParameters, present: TrackedParameters): void {
  for (const name of TRACKED) {
    const value = present.get(name);
    if (value !== undefined) wanted.set(name, value);
  }
}
