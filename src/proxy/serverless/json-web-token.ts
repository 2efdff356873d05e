/**
 * Who a JWT stands for: its signature against the keys that a project's JWKS publish, its times and its audience.
 * Only algorithms with a public key are known here; no token can choose another.
 */
import { compactVerify, decodeProtectedHeader, errors, importJWK } from 'jose';
import type { CryptoKey, JWK } from 'jose';
import type { JwksRule } from '../../control-plane/proxy-access.types.ts';
import { Refusal } from '../refusal.ts';
import type { KeySets, PublishedKey } from './key-sets.ts';

/** By `alg`: what the key must be. */
const ALGORITHMS = new Map<string, Partial<JWK>>([
  ['RS256', { kty: 'RSA' }],
  ['ES256', { kty: 'EC', crv: 'P-256' }],
  ['EdDSA', { kty: 'OKP', crv: 'Ed25519' }],
]);
const LEEWAY_SECONDS = 30;

export interface TokenCheck {
  token: string;
  role: string;
  /** Of the endpoint's branch. */
  rules: readonly JwksRule[];
  keySets: KeySets;
  /** Since 1970. */
  nowMs: number;
}

/** The claims, as JSON of an object. Rejects with Refusal. */
export async function checkToken({ token, role, rules, keySets, nowMs }: TokenCheck): Promise<string> {
  const ofRole = rules.filter(({ roleNames }) => roleNames.includes(role));
  if (ofRole.length === 0) throw new Refusal('JWKs settings for this role were not configured');
  const { algorithm, keyId } = readHeader(token);
  let refusal = new Refusal('jwk not found');
  for (const rule of ofRole) {
    for (const key of await keySets.find(rule.jwksUrl, keyId)) {
      try {
        const claims = await verify(token, key, algorithm);
        checkClaims(claims, rule.audience, nowMs / 1_000);
        return claims;
      } catch (error) {
        // Another set may have a key of the same name, or want another audience.
        refusal = asRefusal(error);
      }
    }
  }
  throw refusal;
}

function readHeader(token: string): { algorithm: string; keyId: string } {
  let header: ReturnType<typeof decodeProtectedHeader>;
  try {
    header = decodeProtectedHeader(token);
  } catch {
    throw malformed();
  }
  const { alg, kid } = header;
  if (typeof alg !== 'string' || !ALGORITHMS.has(alg)) throw new Refusal('signature algorithm not supported');
  if (typeof kid !== 'string' || kid === '') throw new Refusal('missing key id');
  return { algorithm: alg, keyId: kid };
}

const malformed = () => new Refusal('Provided authentication token is not a valid JWT encoding');

async function verify(token: string, key: PublishedKey, algorithm: string): Promise<string> {
  const { jwk } = key;
  const wanted = ALGORITHMS.get(algorithm)!;
  const fits =
    jwk.kty === wanted.kty &&
    (wanted.crv === undefined || jwk.crv === wanted.crv) &&
    (jwk.alg === undefined || jwk.alg === algorithm) &&
    (jwk.use === undefined || jwk.use === 'sig');
  if (!fits) throw new Refusal('signature algorithm not supported');
  key.imported ??= importPublic(jwk, algorithm);
  const { payload } = await compactVerify(token, await key.imported, { algorithms: [algorithm] });
  return Buffer.from(payload).toString('utf8');
}

/** For a key that fits there is only one algorithm. What is secret in it, if it should be there, is left out. */
function importPublic({ kty, crv, n, e, x, y }: JWK, algorithm: string): Promise<CryptoKey> {
  const open = Object.entries({ kty, crv, n, e, x, y }).filter(([, value]) => value !== undefined);
  return importJWK(Object.fromEntries(open) as JWK, algorithm) as Promise<CryptoKey>;
}

/** Throws Refusal. */
function checkClaims(json: string, audience: string | null, nowSeconds: number): void {
  let claims: unknown;
  try {
    claims = JSON.parse(json);
  } catch {
    throw malformed();
  }
  if (typeof claims !== 'object' || claims === null || Array.isArray(claims)) throw malformed();
  const { aud, exp, nbf } = claims as Record<string, unknown>;
  if (audience !== null && !(Array.isArray(aud) ? aud.includes(audience) : aud === audience)) {
    throw new Refusal('invalid JWT token audience');
  }
  for (const time of [exp, nbf]) if (time !== undefined && typeof time !== 'number') throw malformed();
  if (exp !== undefined && nowSeconds >= (exp as number) + LEEWAY_SECONDS) {
    throw new Refusal(`JWT token has expired (exp=${Math.floor(exp as number)})`);
  }
  if (nbf !== undefined && nowSeconds < (nbf as number) - LEEWAY_SECONDS) {
    throw new Refusal(`JWT token is not yet ready to use (nbf=${Math.floor(nbf as number)})`);
  }
}

function asRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof errors.JWSInvalid) return malformed();
  return new Refusal(
    error instanceof errors.JWSSignatureVerificationFailed
      ? 'invalid JWT signature'
      : 'signature algorithm not supported',
  );
}
