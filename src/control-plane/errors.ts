/**
 * The refusals that more than one resource uses, word for word what clients of the API match on.
 * Style: a lower-case sentence, then `; key:"value"` details.
 */
import { AppError } from '../lib/errors.ts';

export const projectNotFound = () => new AppError('not_found', 'project not found');
export const branchNotFound = () => new AppError('not_found', 'branch not found');
export const snapshotNotFound = () => new AppError('not_found', 'snapshot not found');
export const endpointNotFound = () => new AppError('not_found', 'endpoint not found');
export const roleNotFound = () => new AppError('not_found', 'role not found');
export const databaseNotFound = () => new AppError('not_found', 'database not found');
export const jwksNotFound = () => new AppError('not_found', 'jwks not found');
export const operationNotFound = () => new AppError('not_found', 'operation not found');
export const organizationNotFound = () => new AppError('not_found', 'organization not found');
export const memberNotFound = () => new AppError('not_found', 'organization member not found');
export const apiKeyNotFound = () => new AppError('not_found', 'API key not found');

/** A request that the API's document allows but that makes no sense as it is: 400. */
export function invalidRequest(text: string, details: Record<string, string | number> = {}): AppError {
  return new AppError('invalid', `invalid request: ${withDetails(text, details)}`);
}

/** A request that makes sense but not for what is there now: 422. */
export function unprocessable(text: string, details: Record<string, string | number> = {}, code = ''): AppError {
  return new AppError('unprocessable', withDetails(text, details), { code });
}

/** What the document has and Ballast does not do yet. */
export function notImplemented(what: string): AppError {
  return new AppError('not_implemented', `${what} is not implemented by this server`);
}

/** The request was not executed and is safe to repeat: clients do. */
export function conflictingOperations(): AppError {
  return new AppError(
    'locked',
    'project already has running conflicting operations, scheduling of new ones is prohibited',
  );
}

export function withDetails(text: string, details: Record<string, string | number>): string {
  const list = Object.entries(details).map(([key, value]) => `${key}:"${value}"`);
  return list.length === 0 ? text : `${text}; ${list.join(', ')}`;
}
