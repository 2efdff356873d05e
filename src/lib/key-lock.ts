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

  shared<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.#with(key, 'shared', work);
  }

  exclusive<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.#with(key, 'exclusive', work);
  }

  async #with<T>(key: string, mode: Mode, work: () => Promise<T>): Promise<T> {
    await this.#acquire(key, mode);
    try {
      return await work();
    } finally {
      this.#release(key, mode);
    }
  }

  #acquire(key: string, mode: Mode): Promise<void> {
    let state = this.#states.get(key);
    if (!state) this.#states.set(key, (state = { shared: 0, exclusive: false, waiters: [] }));
    const current = state;
    return new Promise((resolve) => {
      current.waiters.push({ mode, grant: resolve });
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
