/**
 * One running compute: its server process, cloud_admin's sessions in it, its activity. Made by start-compute.ts or by
 * adoption, ended by `stop` or by itself.
 */
import { rm, stat, truncate } from 'node:fs/promises';
import type { Logger } from '../lib/log.ts';
import type { ServerProcess } from '../postgres/server.ts';
import { isServerOf, stopServer } from '../postgres/server.ts';
import { ActivityTracker, pollActivity } from './activity.ts';
import type { Bounds } from './autoscale.ts';
import { claimsKey } from './claims-key.ts';
import type { ComputePlace } from './limits.ts';
import type { Places } from './places.ts';
import { removePlaces } from './places.ts';
import { Sessions } from './sessions.ts';
import type { ComputeActivity, ComputeAddress, ComputeSpec } from './types.ts';

export const PORT = 5432;
const IMMEDIATE_STOP_WITHIN_MS = 5_000;
/** A tenant can fill a log with RAISE; Postgres appends, so cutting it while it runs is safe. */
export const LOG_LIMIT_BYTES = 10 * 1024 * 1024;

export interface ComputeParts {
  spec: ComputeSpec;
  dataDirectory: string;
  places: Places;
  socketDirectory: string;
  server: ServerProcess;
  /** Undefined where computes have no limits. */
  place: ComputePlace | undefined;
  secret: string;
  logger: Logger;
  nowMs: () => number;
  /** Sessions end at once; what takes time is the last checkpoint and the archiver. Beyond that, crash recovery is cheaper. */
  fastStopWithinMs: number;
}

export class Compute {
  readonly place: ComputePlace | undefined;
  readonly address: ComputeAddress;
  readonly sessions: Sessions;
  readonly tracker: ActivityTracker;
  /** Resolves when the server is gone, however that came about. */
  readonly exited: Promise<void>;
  readonly #parts: ComputeParts;
  #spec: ComputeSpec;
  #stopRequested = false;
  #gone = false;

  constructor(parts: ComputeParts) {
    this.#parts = parts;
    this.#spec = parts.spec;
    this.place = parts.place;
    const { socketDirectory, secret } = parts;
    this.address = { socketDirectory, port: PORT, claimsKey: claimsKey(secret, socketDirectory) };
    this.sessions = new Sessions({ ...this.address, secret: parts.secret, major: parts.spec.pgVersion });
    this.tracker = new ActivityTracker(parts.nowMs);
    this.exited = parts.server.exited.then(() => {
      this.#gone = true;
    });
  }

  get spec(): ComputeSpec {
    return this.#spec;
  }

  /** What can change while it runs. */
  noteJwtRoles(jwtRoles: readonly string[]): void {
    this.#spec = { ...this.#spec, jwtRoles };
  }

  /** Clients may enter from here on: it gets its size. */
  async follow(): Promise<void> {
    await this.place?.follow(this.spec);
  }

  async resize({ minCu, maxCu }: Bounds): Promise<void> {
    this.#spec = { ...this.#spec, minCu, maxCu };
    await this.follow();
  }

  /** The size now, in compute units; without limits it is as large as it may ever be. */
  get cu(): number {
    return this.place?.cu() ?? this.spec.maxCu;
  }

  /** Neither stopping nor gone, as far as anybody has noticed. */
  get isRunning(): boolean {
    return !this.#stopRequested && !this.#gone;
  }

  get stopRequested(): boolean {
    return this.#stopRequested;
  }

  /** Looks at the process itself: an adopted one ends without telling. */
  isAlive(): Promise<boolean> {
    return isServerOf(this.#parts.dataDirectory, this.#parts.server.pid);
  }

  get socketDirectory(): string {
    return this.#parts.socketDirectory;
  }

  /** Ends the server, gently first, and removes what belongs to this run. Resolves when it is gone; may be called twice. */
  async stop(): Promise<void> {
    this.#stopRequested = true;
    const { server, dataDirectory, logger, places, fastStopWithinMs } = this.#parts;
    const { spec } = this;
    await Promise.all([this.sessions.close(), this.place?.lift()]);
    // A pid that is not ours any more must not be sent a signal.
    if (await this.isAlive()) {
      const how = await stopServer(server, dataDirectory, {
        fastWithinMs: fastStopWithinMs,
        immediateWithinMs: IMMEDIATE_STOP_WITHIN_MS,
      });
      if (how !== 'fast') logger.warn({ endpointId: spec.endpointId, how }, 'a compute did not stop cleanly');
    }
    this.#gone = true;
    await Promise.all([removePlaces(places, this.socketDirectory), this.place?.remove()]);
  }

  /** Removes what a server that ended by itself has left; `replaced`: its endpoint has another one by now. */
  async clear(replaced: boolean): Promise<void> {
    await Promise.all([this.sessions.close(), this.place?.lift()]);
    if (!replaced) await this.place?.remove();
    if (replaced) await rm(this.socketDirectory, { recursive: true, force: true });
    else await removePlaces(this.#parts.places, this.socketDirectory);
  }

  /** Asks Postgres only where it could tell something new. Undefined when it cannot be asked any more. */
  async activity({ fresh = false } = {}): Promise<ComputeActivity | undefined> {
    if (fresh || this.tracker.needsPoll()) {
      this.tracker.pollBegins();
      try {
        this.tracker.pollEnded(await this.sessions.inPostgres(pollActivity));
      } catch (error) {
        this.tracker.pollFailed();
        if (!this.isRunning) return undefined;
        throw error;
      }
      await this.#limitLog();
    }
    const current = this.tracker.current();
    if (!current) return undefined;
    return { endpointId: this.spec.endpointId, ...current, ...(this.spec.standby && { fingerprint: '' }) };
  }

  async #limitLog(): Promise<void> {
    const { log } = this.#parts.places;
    const sizeBytes = await stat(log).then(
      (stats) => stats.size,
      () => 0,
    );
    if (sizeBytes > LOG_LIMIT_BYTES) await truncate(log, 0);
  }
}
