/**
 * Errors on the wire: `{"request_id","code","message"}`, as clients of the contract read them.
 * AppErrors keep their text; everything else becomes a plain 500 whose reason only the log knows.
 */
import type { ErrorKind } from '../lib/errors.ts';
import { AppError } from '../lib/errors.ts';

const STATUS: Record<ErrorKind, number> = {
  invalid: 400,
  unauthenticated: 401,
  forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  not_acceptable: 406,
  conflict: 409,
  precondition: 412,
  too_large: 413,
  unsupported_media: 415,
  unprocessable: 422,
  locked: 423,
  too_many: 429,
  not_implemented: 501,
  unavailable: 503,
  internal: 500,
};

export interface ErrorBody {
  request_id: string;
  code: string;
  message: string;
}

export function errorStatus(error: AppError): number {
  return STATUS[error.kind];
}

export function errorBody(error: { code: string; message: string }, requestId: string): ErrorBody {
  return { request_id: requestId, code: error.code, message: error.message };
}

/** Whatever was thrown as an AppError whose text may be shown. */
export function toAppError(error: unknown): AppError {
  if (error instanceof AppError) {
    return error.kind === 'internal' ? internal(error) : error;
  }
  const status = (error as { statusCode?: unknown } | null)?.statusCode;
  if (typeof status === 'number' && status < 500) return fromServer(status, error);
  return internal(error);
}

function internal(cause: unknown): AppError {
  return new AppError('internal', 'internal server error', { cause });
}

/** What the HTTP server itself refuses; its own texts may quote the request, so they are not passed on. */
function fromServer(status: number, cause: unknown): AppError {
  if (status === 413) return new AppError('too_large', 'invalid request: request body too large', { cause });
  if (status === 415) return new AppError('unsupported_media', 'invalid request: unsupported media type', { cause });
  return new AppError('invalid', 'invalid request: malformed HTTP request', { cause });
}

export const noSuchRoute = (): AppError => new AppError('not_found', 'this route does not exist');

export const badCredentials = (): AppError =>
  new AppError('unauthenticated', 'supplied credentials do not pass authentication');
