/**
 * Ballast's own lines in the log of an endpoint, in the shape of those of Postgres.
 */
import { appendFile } from 'node:fs/promises';
import { errorMessage } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';

/** Does not wait, and never throws: a log that cannot be written is no reason to do anything differently. */
export function writeNote(file: string, lines: readonly string[], logger: Logger): void {
  const time = new Date().toISOString().replace('T', ' ').replace('Z', ' UTC');
  const text = lines.map((line) => `${time} [ballast] LOG:  ${line}\n`).join('');
  appendFile(file, text, { mode: 0o600 }).catch((error: unknown) =>
    logger.debug({ file, reason: errorMessage(error) }, 'an endpoint log could not be written'),
  );
}
