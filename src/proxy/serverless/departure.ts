/**
 * That the client of a request goes away before it is answered. An AbortSignal costs more than most queries, so there is
 * one only where somebody wants it.
 */
import type { ServerResponse } from 'node:http';
import { ConnectionClosed } from '../../postgres/wire/socket-reader.ts';

export class Departure {
  readonly #listeners = new Set<() => void>();
  #controller: AbortController | undefined;
  #gone = false;

  constructor(response: ServerResponse) {
    response.once('close', () => {
      if (!response.writableFinished) this.#leave();
    });
  }

  get gone(): boolean {
    return this.#gone;
  }

  reason(): Error {
    return new ConnectionClosed('connection closed');
  }

  /** Calls once, at once where it is so already. Returns how to stop listening. */
  whenGone(listener: () => void): () => void {
    if (this.#gone) listener();
    else this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  get signal(): AbortSignal {
    if (!this.#controller) {
      const controller = new AbortController();
      this.#controller = controller;
      this.whenGone(() => controller.abort(this.reason()));
    }
    return this.#controller.signal;
  }

  #leave(): void {
    this.#gone = true;
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }
}
