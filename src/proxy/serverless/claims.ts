/**
 * What a verified JWT says, in the form in which the extension pg_session_jwt of a compute believes it: signed for one
 * session and for a short while. Text of ASCII only, whatever the encoding of the database is.
 */
import { createHmac } from 'node:crypto';

/** A transaction that begins later than this is not believed; one that has begun may take its time. */
const GOOD_FOR_SECONDS = 60;

export interface ClaimsToSign {
  /** Of the session, as Postgres told it at the login. */
  processId: number;
  /** JSON of an object, as it was in the JWT. */
  claims: string;
  nowMs: number;
}

export function signClaims(key: Buffer, { processId, claims, nowMs }: ClaimsToSign): string {
  const ascii = claims.replaceAll(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  const message = `${processId}.${Math.floor(nowMs / 1000) + GOOD_FOR_SECONDS}.${ascii}`;
  return `${createHmac('sha256', key).update(message).digest('hex')}.${message}`;
}
