/**
 * Shared/exclusive locks by key, first come first served, within this process.
 * A waiting exclusive holder blocks later shared ones, so that it is never starved.
 */
type Mode = 'shared' | 'exclusive';
interface Waiter {
  mode: Mode;
  grant: () => void;
}
interface State {
  shared: number;
  exclusive: boolean;
  waiters: Waiter[];
}

export class KeyLock {
  readonly #states = new Map<string, State>();

  /** `signal` ends the waiting, not the work; then this rejects with its reason. */
  shared<T>(key: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#with(key, 'shared', work, signal);
  }

  exclusive<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.#with(key, 'exclusive', work);
  }

  async #with<T>(key: string, mode: Mode, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    await this.#acquire(key, mode, signal);
    try {
      return await work();
    } finally {
      this.#release(key, mode);
    }
  }

  #acquire(key: string, mode: Mode, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    let state = this.#states.get(key);
    if (!state) this.#states.set(key, (state = { shared: 0, exclusive: false, waiters: [] }));
    const current = state;
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        mode,
        grant: () => {
          signal?.removeEventListener('abort', leave);
          resolve();
        },
      };
      const leave = (): void => {
        current.waiters.splice(current.waiters.indexOf(waiter), 1);
        // Those behind it may have waited for nobody else.
        this.#advance(key, current);
        reject(signal!.reason as Error);
      };
      signal?.addEventListener('abort', leave, { once: true });
      current.waiters.push(waiter);
      this.#advance(key, current);
    });
  }

  #release(key: string, mode: Mode): void {
    const state = this.#states.get(key)!;
    if (mode === 'shared') state.shared -= 1;
    else state.exclusive = false;
    this.#advance(key, state);
  }

  #advance(key: string, state: State): void {
    for (;;) {
      const next = state.waiters[0];
      if (!next) break;
      if (state.exclusive || (next.mode === 'exclusive' && state.shared > 0)) break;
      state.waiters.shift();
      if (next.mode === 'exclusive') state.exclusive = true;
      else state.shared += 1;
      next.grant();
    }
    if (!state.exclusive && state.shared === 0 && state.waiters.length === 0) {
      this.#states.delete(key);
    }
  }
}
