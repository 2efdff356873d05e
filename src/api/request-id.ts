/**
 * Request ids: the caller's `X-Request-ID` where it is harmless in headers and logs, otherwise a new UUID.
 */
import { randomUUID } from 'node:crypto';

const HARMLESS = /^[A-Za-z0-9._:+/=@-]{1,128}$/;

export function requestId(header: string | string[] | undefined): string {
  return typeof header === 'string' && HARMLESS.test(header) ? header : randomUUID();
}
