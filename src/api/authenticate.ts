/**
 * Who is asking: `Authorization: Bearer <API key>` is the only way in. A missing, malformed, unknown or revoked key is
 * one and the same answer.
 */
import type { Caller } from '../control-plane/caller.ts';
import { badCredentials } from './errors.ts';

/** Undefined: no such key, or it is revoked. */
export type Authenticator = (token: string, remoteAddress: string) => Promise<Caller | undefined>;

/** Longer than any key; keeps megabytes of header away from hashing and lookups. */
const MAX_TOKEN_LENGTH = 4096;

/** Throws AppError 'unauthenticated'. */
export async function authenticate(
  authenticator: Authenticator,
  authorization: string | undefined,
  remoteAddress: string,
): Promise<Caller> {
  const token = bearerToken(authorization);
  const caller = token === undefined ? undefined : await authenticator(token, remoteAddress);
  if (caller === undefined) throw badCredentials();
  return caller;
}

function bearerToken(authorization: string | undefined): string | undefined {
  if (authorization === undefined || authorization.slice(0, 7).toLowerCase() !== 'bearer ') return undefined;
  const token = authorization.slice(7).trim();
  return token === '' || token.length > MAX_TOKEN_LENGTH ? undefined : token;
}
