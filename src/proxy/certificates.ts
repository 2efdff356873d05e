/**
 * The proxy's certificate: the user's PEM files, or a local authority of this data directory with a leaf for the
 * domain.
 *
 *   tls/ca.pem  tls/ca-key.pem       the authority, made once; clients that verify trust ca.pem
 *   tls/server.pem tls/server-key.pem  the leaf (followed by the authority), renewed a month before it ends
 *
 * Keys are 0600. Whoever holds ca-key.pem can pose as this server, which is why it never leaves the directory. A whole
 * machine may trust the authority (`ballast trust`), so it can vouch for the domain and for loopback, and nothing else.
 */
import 'reflect-metadata';
import { X509Certificate, createHash, createPrivateKey, createPublicKey, randomBytes, webcrypto } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import * as x509 from '@peculiar/x509';
import type { Config } from '../config.ts';
import type { Home } from '../home.ts';
import { durable, writeFileDurably } from '../lib/durable.ts';
import { AppError, errorMessage } from '../lib/errors.ts';
import { nameConstraintsExtension, permittedNames } from '../lib/name-constraints.ts';

export interface Certificates {
  /** PEM, leaf first. */
  cert: string;
  /** PEM. */
  key: string;
  /** What clients verify with (`sslrootcert`); undefined for the user's own certificate. */
  caFile: string | undefined;
  /** For channel binding by tls-server-end-point; undefined when the certificate has no hash to use. */
  endPointHash: Buffer | undefined;
  /**
   * A certificate for one name, with the same key, for clients that take no wildcard: OpenSSL's do not right below a
   * top-level name such as `localhost`. Undefined where the wildcard does or there is no authority.
   */
  forName: ((name: string) => Promise<Pick<Certificates, 'cert' | 'endPointHash'>>) | undefined;
  /** When to load them again. Undefined: they are the user's to renew. */
  renewAt: Date | undefined;
  /** The authority is another one than last time, so who trusted that has to trust this one. */
  authorityReplaced: boolean;
}

const DAY_MS = 86_400_000;
/** Clients refuse longer ones. */
const LEAF_DAYS = 397;
const RENEW_BEFORE_DAYS = 30;
const AUTHORITY_DAYS = 3650;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';
const LOOPBACK = ['127.0.0.0/8', '::1/128'];

/** Throws AppError 'unprocessable' naming --tls-cert and --tls-key when the user's files cannot be used. */
export async function loadCertificates(options: {
  home: Pick<Home, 'tls'>;
  config: Pick<Config, 'domain' | 'tlsCert' | 'tlsKey'>;
  now?: Date;
}): Promise<Certificates> {
  const { home, config, now = new Date() } = options;
  if (config.tlsCert !== undefined && config.tlsKey !== undefined) return readUsers(config.tlsCert, config.tlsKey);
  const files = {
    ca: path.join(home.tls, 'ca.pem'),
    caKey: path.join(home.tls, 'ca-key.pem'),
    cert: path.join(home.tls, 'server.pem'),
    key: path.join(home.tls, 'server-key.pem'),
  };
  await mkdir(home.tls, { recursive: true, mode: 0o700 });
  const known = await readPair(files.ca, files.caKey);
  const keep = known && mayVouchFor(known.cert, config.domain) && !expiresWithin(known.cert, LEAF_DAYS, now);
  const authority = keep ? known : await makeAuthority(config.domain, now);
  if (!keep) await writePair(files.ca, files.caKey, authority);
  let leaf = await readPair(files.cert, files.key);
  if (!leaf || !fits(leaf.cert, authority.cert, config.domain, now)) {
    leaf = await makeLeaf(authority, config.domain, now);
    await writePair(files.cert, files.key, leaf);
  }
  const renewAt = new Date(Date.parse(new X509Certificate(leaf.cert).validTo) - RENEW_BEFORE_DAYS * DAY_MS);
  const signer = { authority, key: leaf.key };
  const forName = config.domain.includes('.')
    ? undefined
    : async (name: string) => {
        const cert = await signLeaf(signer.authority, await importPublicKey(signer.key), [name], new Date());
        return { cert, endPointHash: endPointHash(cert) };
      };
  const authorityReplaced = known !== undefined && !keep;
  return { ...leaf, caFile: files.ca, endPointHash: endPointHash(leaf.cert), forName, renewAt, authorityReplaced };
}

interface Pair {
  cert: string;
  key: string;
}

async function readUsers(certFile: string, keyFile: string): Promise<Certificates> {
  try {
    const [cert, key] = await Promise.all([readFile(certFile, 'utf8'), readFile(keyFile, 'utf8')]);
    if (!new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) {
      throw new Error('the key is not the one of the certificate');
    }
    const none = { caFile: undefined, forName: undefined, renewAt: undefined, authorityReplaced: false };
    return { cert, key, endPointHash: endPointHash(cert), ...none };
  } catch (error) {
    throw new AppError('unprocessable', `--tls-cert and --tls-key cannot be used: ${errorMessage(error)}`, {
      cause: error,
    });
  }
}

/** Undefined when one of the two is missing or they do not belong together (a crash between two writes). */
async function readPair(certFile: string, keyFile: string): Promise<Pair | undefined> {
  try {
    const [cert, key] = await Promise.all([readFile(certFile, 'utf8'), readFile(keyFile, 'utf8')]);
    return new X509Certificate(cert).checkPrivateKey(createPrivateKey(key)) ? { cert, key } : undefined;
  } catch {
    return undefined;
  }
}

async function writePair(certFile: string, keyFile: string, pair: Pair): Promise<void> {
  await writeFileDurably(durable, 'written-file', keyFile, pair.key, { mode: 0o600 });
  await writeFileDurably(durable, 'written-file', certFile, pair.cert, { mode: 0o644 });
}

function expiresWithin(cert: string, days: number, now: Date): boolean {
  return Date.parse(new X509Certificate(cert).validTo) < now.getTime() + days * DAY_MS;
}

function fits(cert: string, authority: string, domain: string, now: Date): boolean {
  const leaf = new X509Certificate(cert);
  return (
    !expiresWithin(cert, RENEW_BEFORE_DAYS, now) &&
    leaf.verify(new X509Certificate(authority).publicKey) &&
    // Not checkHost: OpenSSL takes no wildcard right below a top-level name such as localhost.
    [`DNS:*.${domain}`, `DNS:api.${domain}`].every((name) => (leaf.subjectAltName ?? '').split(', ').includes(name))
  );
}

/** The domain and the loopback addresses, and no others: authorities that could vouch for any name were made once. */
function mayVouchFor(authority: string, domain: string): boolean {
  const { dns = [], ip = [] } = permittedNames(authority) ?? {};
  const wanted = [...localNames(domain), ...LOOPBACK];
  return dns.length + ip.length === wanted.length && wanted.every((name) => [...dns, ...ip].includes(name));
}

const localNames = (domain: string): string[] => [...new Set([domain.toLowerCase(), 'localhost'])];

async function makeAuthority(domain: string, now: Date): Promise<Pair> {
  const keys = await generateKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      serialNumber: serialNumber(),
      // Stores look authorities up by name: one machine may trust those of several data directories.
      name: `CN=Ballast local authority ${randomBytes(4).toString('hex')}`,
      ...validity(now, AUTHORITY_DAYS),
      signingAlgorithm: ALGORITHM,
      keys,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        new x509.ExtendedKeyUsageExtension([SERVER_AUTH]),
        nameConstraintsExtension({ dns: localNames(domain), ip: LOOPBACK }),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey, false, webcrypto),
      ],
    },
    webcrypto,
  );
  return { cert: pem(certificate), key: await exportKey(keys.privateKey) };
}

async function makeLeaf(authority: Pair, domain: string, now: Date): Promise<Pair> {
  const keys = await generateKeys();
  // api.<domain> and apiauth.<domain> are covered by the wildcard, but for `localhost`, where not every client takes one.
  const names = new Set([`*.${domain}`, domain, 'localhost', `api.${domain}`, `apiauth.${domain}`]);
  const cert = await signLeaf(authority, keys.publicKey, [...names], now);
  return { cert, key: await exportKey(keys.privateKey) };
}

/** PEM, followed by the authority's. The first name is the subject. */
async function signLeaf(
  authority: Pair,
  publicKey: webcrypto.CryptoKey,
  names: readonly string[],
  now: Date,
): Promise<string> {
  const issuer = new x509.X509Certificate(authority.cert);
  const certificate = await x509.X509CertificateGenerator.create(
    {
      serialNumber: serialNumber(),
      subject: `CN=${names[0]}`,
      issuer: issuer.subject,
      ...validity(now, LEAF_DAYS),
      signingAlgorithm: ALGORITHM,
      publicKey,
      signingKey: await importKey(authority.key),
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([SERVER_AUTH]),
        new x509.SubjectAlternativeNameExtension([
          ...names.map((value) => ({ type: 'dns' as const, value })),
          { type: 'ip', value: '127.0.0.1' },
          { type: 'ip', value: '::1' },
        ]),
        await x509.AuthorityKeyIdentifierExtension.create(issuer, false, webcrypto),
      ],
    },
    webcrypto,
  );
  return pem(certificate) + authority.cert;
}

/** A minute back, for clients whose clock is a little behind. */
function validity(now: Date, days: number): { notBefore: Date; notAfter: Date } {
  const notBefore = new Date(now.getTime() - 60_000);
  return { notBefore, notAfter: new Date(notBefore.getTime() + days * DAY_MS) };
}

/** Positive, as its first bit is cleared. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0]! & 0x3f) | 0x40;
  return bytes.toString('hex');
}

const pem = (certificate: x509.X509Certificate): string => `${certificate.toString('pem').trimEnd()}\n`;

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return `${x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')}\n`;
}

async function importKey(key: string): Promise<webcrypto.CryptoKey> {
  const der = x509.PemConverter.decodeFirst(key);
  return webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
}

/** The public half of a private key. */
async function importPublicKey(key: string): Promise<webcrypto.CryptoKey> {
  const der = createPublicKey(key).export({ type: 'spki', format: 'der' });
  return webcrypto.subtle.importKey('spki', der, ALGORITHM, true, ['verify']);
}

/** RFC 5929: the hash of the signature algorithm, SHA-256 in place of MD5 and SHA-1. */
export function endPointHash(cert: string): Buffer | undefined {
  const der = new X509Certificate(cert).raw;
  const algorithm = new x509.X509Certificate(der).signatureAlgorithm as { hash?: { name: string } | string };
  const name = typeof algorithm.hash === 'string' ? algorithm.hash : algorithm.hash?.name;
  const hash = name?.toLowerCase().replace('-', '');
  if (hash === undefined) return undefined;
  const used = hash === 'md5' || hash === 'sha1' ? 'sha256' : hash;
  return createHash(used).update(der).digest();
}
