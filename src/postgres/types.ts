/**
 * A PostgreSQL that can be run: a private installation tree made from an npm package or a system's installation.
 */
export type InstallationSource = 'bundled' | 'installed' | 'system';

export interface PostgresInstallation {
  major: number;
  /** As `postgres --version` says, for example `17.10`. */
  version: string;
  source: InstallationSource;
  /** Names the exact build; part of the template's directory name. */
  build: string;
  /** Absolute paths of the executables, runnable by any user. */
  postgres: string;
  initdb: string;
  /** share/…/extension of the private tree. */
  extensionDirectory: string;
  /** What must be in the environment (LD_LIBRARY_PATH); nothing else is inherited. */
  env: Record<string, string>;
}

export interface Installations {
  /** Majors that can be used, ascending. Cheap: nothing is copied or started. */
  available(): Promise<{ major: number; version: string; source: InstallationSource }[]>;
  /** Makes the private tree when needed. Throws AppError 'unprocessable' naming the command that installs the major. */
  get(major: number): Promise<PostgresInstallation>;
}
