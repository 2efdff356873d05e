/**
 * cloud_admin's sessions of one compute: a shared one in `postgres` that closes itself when it has not been used for a
 * while (an idle compute shall cost nothing), and short ones inside other databases.
 *
 * Statements on the shared session queue up inside the driver; nobody may leave a transaction or a setting behind.
 */
import type { InternalLogin, InternalSession } from '../postgres/internal-session.ts';
import { openInternalSession, withInternalSession } from '../postgres/internal-session.ts';

const CLOSE_AFTER_IDLE_MS = 5_000;

export class Sessions {
  readonly #login: Omit<InternalLogin, 'database'>;
  #main: Promise<InternalSession> | undefined;
  #closing: NodeJS.Timeout | undefined;
  #users = 0;

  constructor(login: Omit<InternalLogin, 'database'>) {
    this.#login = login;
  }

  /** Works on the shared session. A session that failed is not used again. */
  async inPostgres<T>(work: (session: InternalSession) => Promise<T>): Promise<T> {
    clearTimeout(this.#closing);
    this.#users += 1;
    const opening = (this.#main ??= openInternalSession({ ...this.#login, database: 'postgres' }));
    try {
      return await work(await opening);
    } catch (error) {
      // What went wrong may have been the connection; a fresh one next time costs 3 ms.
      if (this.#main === opening) this.#main = undefined;
      void opening.then((session) => session.close()).catch(() => undefined);
      throw error;
    } finally {
      this.#users -= 1;
      if (this.#users === 0) {
        this.#closing = setTimeout(() => void this.close(), CLOSE_AFTER_IDLE_MS);
        this.#closing.unref();
      }
    }
  }

  /** Opens a session in that database, works, closes it. */
  inDatabase<T>(database: string, work: (session: InternalSession) => Promise<T>): Promise<T> {
    return withInternalSession({ ...this.#login, database }, work);
  }

  async close(): Promise<void> {
    clearTimeout(this.#closing);
    const open = this.#main;
    this.#main = undefined;
    await open?.then((session) => session.close()).catch(() => undefined);
  }
}
