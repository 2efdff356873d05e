/**
 * What the proxy tells of itself as it happens, for whoever keeps figures. Nothing here is called for every message.
 */
export interface ProxyObserver {
  /** A client was turned away; `reason` is one of a fixed few words. */
  refused(reason: string): void;
  /** A client of a pool had to wait for a server connection, and got one. */
  poolWaited(ms: number): void;
  /** A login at a compute; `woken`: the compute was started for whoever logs in. */
  loggedIn(ms: number, woken: boolean): void;
  /** From asking for a compute that slept until it could be entered. */
  wakeWaited(ms: number): void;
}

export const noObserver: ProxyObserver = {
  refused: () => undefined,
  poolWaited: () => undefined,
  loggedIn: () => undefined,
  wakeWaited: () => undefined,
};
