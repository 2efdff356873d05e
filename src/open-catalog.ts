/**
 * Opens the catalog, whoever runs it, and stops what was started for it: shared by main.ts and catalog-rebuild.ts.
 */
import { CatalogDatabase, parseCatalogUrl, type CatalogConnection } from './catalog/database.ts';
import { startEmbeddedCatalog } from './catalog/embedded.ts';
import { migrate } from './catalog/migrate.ts';
import type { Config } from './config.ts';
import type { Home } from './home.ts';
import { AppError, errorMessage, isAppError } from './lib/errors.ts';
import type { Logger } from './lib/log.ts';
import type { Installations } from './postgres/types.ts';

/** Sessions of the catalog: for requests, and for the work that requests wait for. */
const REQUEST_SESSIONS = 16;
const WORK_SESSIONS = 12;

export interface Stop {
  what: string;
  run(): Promise<void>;
}

export interface Catalogs {
  requests: CatalogDatabase;
  work: CatalogDatabase;
}

export interface CatalogParts {
  config: Config;
  home: Home;
  installations: Installations;
  logger: Logger;
  /** Receives how to stop what is started. */
  stops: Stop[];
}

export async function openCatalog(parts: CatalogParts): Promise<Catalogs> {
  const { config, logger, stops } = parts;
  let connection: CatalogConnection;
  if (config.catalogUrl === undefined) {
    const embedded = await startEmbeddedCatalog(parts);
    stops.push({ what: 'embedded catalog', run: () => embedded.stop() });
    connection = embedded.connection;
  } else {
    connection = parseCatalogUrl(config.catalogUrl);
  }
  const requests = new CatalogDatabase({ connection, logger, name: 'ballast', maxConnections: REQUEST_SESSIONS });
  const work = new CatalogDatabase({ connection, logger, name: 'ballast-work', maxConnections: WORK_SESSIONS });
  stops.push({ what: 'catalog sessions', run: async () => void (await Promise.all([requests.close(), work.close()])) });
  const ran = await migrate(requests).catch((error: unknown) => {
    if (config.catalogUrl === undefined) throw error;
    const reason = isAppError(error, 'unavailable') ? 'cannot be reached' : `cannot be used: ${errorMessage(error)}`;
    throw new AppError('unavailable', `the database of --catalog-url ${reason}`, { cause: error });
  });
  if (ran.length > 0) logger.info({ migrations: ran }, 'brought the catalog up to date');
  return { requests, work };
}

/** What was started last stops first; each only once. */
export async function stopInOrder(stops: Stop[], logger: Logger): Promise<void> {
  for (let stop = stops.pop(); stop; stop = stops.pop()) {
    const begunMs = performance.now();
    try {
      await stop.run();
    } catch (error) {
      logger.error({ err: error, what: stop.what }, 'did not stop well');
    }
    logger.debug({ what: stop.what, durationMs: Math.round(performance.now() - begunMs) }, 'stopped');
  }
}
