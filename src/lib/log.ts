/**
 * Structured logs (JSON lines on stderr). One logger is made in main.ts and handed down; children carry ids.
 * Anything that could hold a secret is redacted by name, as a second wall: callers must not log secrets at all.
 */
import { pino } from 'pino';
import type { DestinationStream, Logger as PinoLogger } from 'pino';

export type Logger = PinoLogger;

const SECRET_FIELDS = ['password', 'verifier', 'key', 'authorization', 'connection_uri', 'secret', 'uri'];

/** Lines go to `destination` when there is one, else to `file`, else to stderr. */
export function createLogger(options: { level: string; file?: string; destination?: DestinationStream }): Logger {
  return pino(
    {
      level: options.level,
      base: null,
      serializers: { err: describeError },
      redact: { paths: SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]), censor: '[redacted]' },
    },
    options.destination ?? pino.destination({ dest: options.file ?? 2, sync: false, mkdir: true }),
  );
}

/** What is worth knowing of an error. Libraries hang whole clients on theirs, with all that those know. */
function describeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code, internal, detail } = error as { code?: unknown; internal?: unknown; detail?: unknown };
  return {
    message: error.message,
    stack: error.stack,
    ...(code !== undefined && code !== '' && { code }),
    ...(internal !== undefined && { internal }),
    ...(detail !== undefined && { detail }),
    ...(error.cause !== undefined && { cause: describeError(error.cause) }),
  };
}

/** For tests and for callers that have nothing to say. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}
