/**
 * A party that issues JWTs: keys of its own, and a server on the loopback interface that publishes them.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { SignJWT, exportJWK, generateKeyPair } from 'jose';
import type { CryptoKey, JWK, JWTPayload } from 'jose';

export interface SigningKey {
  id: string;
  algorithm: string;
  privateKey: CryptoKey;
  jwk: JWK;
}

export interface Issuer {
  /** Where the keys are. */
  url: string;
  /** What it publishes; tests change it. */
  keys: JWK[];
  /** How often it was asked. */
  asked(): number;
  close(): Promise<void>;
}

export async function makeKey(id: string, algorithm = 'ES256'): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair(algorithm, { extractable: true });
  const jwk = { ...(await exportJWK(publicKey)), kid: id, alg: algorithm, use: 'sig' };
  return { id, algorithm, privateKey, jwk };
}

/** Listens on a free port. */
export async function startIssuer(keys: JWK[]): Promise<Issuer> {
  let asked = 0;
  const server = createServer((_request, response) => {
    asked += 1;
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ keys: issuer.keys }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const issuer: Issuer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/.well-known/jwks.json`,
    keys,
    asked: () => asked,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return issuer;
}

/** Good for an hour unless `claims` say otherwise. */
export function signToken(key: SigningKey, claims: JWTPayload, header: object = {}): Promise<string> {
  const nowSeconds = Math.floor(Date.now() / 1000);
  return new SignJWT({ iat: nowSeconds, exp: nowSeconds + 3600, ...claims })
    .setProtectedHeader({ alg: key.algorithm, kid: key.id, ...header })
    .sign(key.privateKey);
}

/** A token that claims to need no signature. */
export function unsignedToken(keyId: string, claims: JWTPayload): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${part({ alg: 'none', kid: keyId })}.${part(claims)}.`;
}
