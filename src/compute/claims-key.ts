/**
 * The key by which a compute believes what Ballast says about a JWT: one per start, so that no other compute's helps.
 *
 * The proxy signs the claims of a verified JWT with it (proxy/serverless/claims.ts); the extension pg_session_jwt reads
 * it, as cloud_admin, from a file beside pg_hba.conf. Tenants read no files, and the key is in no catalog, no setting
 * and no clone.
 */
import { createHmac } from 'node:crypto';
import path from 'node:path';

export const CLAIMS_FILE = 'jwt.json';
const BLOCK_BYTES = 64;

/** Derived, so that it is known again after a restart of Ballast: `socketDirectory` is new at each start. */
export function claimsKey(secret: string, socketDirectory: string): Buffer {
  return createHmac('sha256', secret)
    .update(`claims of JWTs\n${path.basename(socketDirectory)}`)
    .digest();
}

/** The key as HMAC uses it, so that SQL has two hashes to make and nothing else; and whose claims nobody else may set. */
export function claimsFile(key: Buffer, roles: readonly string[]): string {
  const padded = (byte: number) => {
    const block = Buffer.alloc(BLOCK_BYTES, byte);
    for (const [index, value] of key.entries()) block[index]! ^= value;
    return block.toString('hex');
  };
  const json = JSON.stringify({ inner: padded(0x36), outer: padded(0x5c), roles });
  return json.replaceAll(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
