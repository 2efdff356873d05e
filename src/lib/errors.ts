/**
 * The one error type that may cross module boundaries on purpose.
 *
 * `kind` says what went wrong without naming a transport; each edge maps it once
 * (HTTP status in api/errors.ts, ErrorResponse in proxy/errors.ts).
 * `message` is public: it reaches clients word for word, so it never holds a secret or a host path.
 * What only operators may see goes into `internal` or `cause`.
 */
export type ErrorKind =
  | 'invalid' // 400
  | 'unauthenticated' // 401
  | 'forbidden' // 403
  | 'not_found' // 404
  | 'method_not_allowed' // 405
  | 'not_acceptable' // 406
  | 'conflict' // 409
  | 'precondition' // 412
  | 'too_large' // 413
  | 'unsupported_media' // 415
  | 'unprocessable' // 422
  | 'locked' // 423
  | 'too_many' // 429
  | 'not_implemented' // 501
  | 'unavailable' // 503
  | 'internal'; // 500

export class AppError extends Error {
  readonly kind: ErrorKind;
  /** Neon's machine-readable code; the empty string for most errors. */
  readonly code: string;
  /** For logs only. */
  readonly internal: string | undefined;

  constructor(kind: ErrorKind, message: string, options: { code?: string; internal?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'AppError';
    this.kind = kind;
    this.code = options.code ?? '';
    this.internal = options.internal;
  }
}

/** True for an AppError, of the given kind if one is named. */
export function isAppError(error: unknown, kind?: ErrorKind): error is AppError {
  return error instanceof AppError && (kind === undefined || error.kind === kind);
}

/** The message of anything that was thrown. */
export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
