/**
 * Where everything of one data directory is. `prepareHome` (home-prepare.ts) makes the directories and applies the
 * rule for root; this file only names them.
 */
export interface Home {
  dataDir: string;
  /** Real paths (links resolved) of the engine's directories. */
  pool: string;
  catalog: string;
  run: string;
  postgres: string;
  /** Where Unix sockets go: `run`, or a short directory when its path would be too long for a socket. */
  sockets: string;
  log: string;
  tls: string;
  secrets: string;
  apiKeyFile: string;
  pidFile: string;
}
