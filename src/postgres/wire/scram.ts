/**
 * SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677, tls-server-end-point of RFC 5929) as Postgres speaks them.
 *
 * A verifier is what pg_authid.rolpassword holds: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, base64.
 * The server side needs only the verifier; a good proof reveals the ClientKey, with which `createScramClient` can log
 * in elsewhere under the same verifier. A ClientKey is as good as the password: it lives in memory only.
 *
 * Unknown roles run the same exchange against `mockVerifier`, which no proof can match.
 */
import { createHash, createHmac, pbkdf2, pbkdf2Sync, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { saslprep } from './saslprep.ts';

export const SCRAM_SHA_256 = 'SCRAM-SHA-256';
export const SCRAM_SHA_256_PLUS = 'SCRAM-SHA-256-PLUS';
export type ScramMechanism = typeof SCRAM_SHA_256 | typeof SCRAM_SHA_256_PLUS;

export const DEFAULT_ITERATIONS = 4096;
const SALT_BYTES = 16;
const KEY_BYTES = 32;
const NONCE_BYTES = 18;
/** scram_iterations is the user's to set; more would let one login attempt hold a thread for many seconds. */
const MAX_ITERATIONS = 1_000_000;
const CHANNEL_BINDING = 'tls-server-end-point';

export interface ScramVerifier {
  iterations: number;
  salt: Buffer;
  storedKey: Buffer;
  serverKey: Buffer;
}

/** The other side broke the protocol. The message is safe to show. */
export class ScramError extends Error {}

const pbkdf2Async = promisify(pbkdf2);

const hmac = (key: Buffer, text: string | Buffer): Buffer => createHmac('sha256', key).update(text).digest();
const sha256 = (data: Buffer): Buffer => createHash('sha256').update(data).digest();

function xor(a: Buffer, b: Buffer): Buffer {
  const result = Buffer.alloc(a.length);
  for (let i = 0; i < a.length; i += 1) result[i] = a[i]! ^ b[i]!;
  return result;
}

async function saltedPassword(password: string, salt: Buffer, iterations: number): Promise<Buffer> {
  return pbkdf2Async(Buffer.from(saslprep(password), 'utf8'), salt, iterations, KEY_BYTES, 'sha256');
}

/** What ALTER ROLE … PASSWORD takes in place of the password. `salt` is random unless given. */
export async function buildVerifier(
  password: string,
  options: { iterations?: number; salt?: Buffer } = {},
): Promise<string> {
  const { iterations = DEFAULT_ITERATIONS, salt = randomBytes(SALT_BYTES) } = options;
  const salted = await saltedPassword(password, salt, iterations);
  return formatVerifier({
    iterations,
    salt,
    storedKey: sha256(hmac(salted, 'Client Key')),
    serverKey: hmac(salted, 'Server Key'),
  });
}

export function formatVerifier(verifier: ScramVerifier): string {
  const base64 = (data: Buffer) => data.toString('base64');
  const keys = `${base64(verifier.storedKey)}:${base64(verifier.serverKey)}`;
  return `${SCRAM_SHA_256}$${verifier.iterations}:${base64(verifier.salt)}$${keys}`;
}

/** Undefined for anything else: an MD5 hash, a damaged value, absurd iterations. */
export function parseVerifier(text: string): ScramVerifier | undefined {
  const match = /^SCRAM-SHA-256\$(\d{1,10}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$/.exec(text);
  if (!match) return undefined;
  const iterations = Number(match[1]);
  const [salt, storedKey, serverKey] = [match[2]!, match[3]!, match[4]!].map((part) => Buffer.from(part, 'base64'));
  if (iterations < 1 || iterations > MAX_ITERATIONS || salt!.length === 0) return undefined;
  if (storedKey!.length !== KEY_BYTES || serverKey!.length !== KEY_BYTES) return undefined;
  return { iterations, salt: salt!, storedKey: storedKey!, serverKey: serverKey! };
}

/**
 * A verifier that looks like any other and fits no password. The same `secret` and `identity` always give the same
 * salt, as a real role would; otherwise asking twice would tell that there is none.
 */
export function mockVerifier(secret: Buffer, identity: string): ScramVerifier {
  return {
    iterations: DEFAULT_ITERATIONS,
    salt: hmac(secret, `salt ${identity}`).subarray(0, SALT_BYTES),
    storedKey: hmac(secret, `stored key ${identity}`),
    serverKey: hmac(secret, `server key ${identity}`),
  };
}

/** The ClientKey when the password fits, else undefined. Takes about a millisecond on another thread. */
export async function checkPassword(password: string, verifier: ScramVerifier): Promise<Buffer | undefined> {
  const salted = await saltedPassword(password, verifier.salt, verifier.iterations);
  const clientKey = hmac(salted, 'Client Key');
  return timingSafeEqual(sha256(clientKey), verifier.storedKey) ? clientKey : undefined;
}

/** What a client has proved, checked against a verifier: again, should the verifier have changed meanwhile. */
export interface ScramProof {
  /** Undefined when the password was another. `serverFinal` goes into AuthenticationSASLFinal. */
  check(verifier: ScramVerifier): { clientKey: Buffer; serverFinal: string } | undefined;
}

export interface ScramServer {
  /** Takes client-first-message, gives server-first-message. Throws ScramError. */
  first(clientFirst: string): string;
  /** Takes client-final-message. Throws ScramError when it breaks the protocol; a wrong proof does not throw. */
  final(clientFinal: string): ScramProof;
}

export interface ScramServerOptions {
  mechanism: ScramMechanism;
  verifier: ScramVerifier;
  /** Hash of the certificate that this client sees; undefined when -PLUS was not offered. */
  endPointHash: Buffer | undefined;
}

export function createScramServer(options: ScramServerOptions): ScramServer {
  const { verifier } = options;
  let nonce = '';
  let channelBinding = '';
  let firstMessages = '';
  return {
    first(clientFirst) {
      const { header, bare, clientNonce } = parseClientFirst(clientFirst);
      const hash = checkBinding(header, options);
      nonce = clientNonce + randomBytes(NONCE_BYTES).toString('base64');
      channelBinding = Buffer.concat([Buffer.from(header), hash]).toString('base64');
      const serverFirst = `r=${nonce},s=${verifier.salt.toString('base64')},i=${verifier.iterations}`;
      firstMessages = `${bare},${serverFirst}`;
      return serverFirst;
    },
    final(clientFinal) {
      const match = /^(c=([^,]*),r=([^,]*)(?:,[^,]*)*?),p=([A-Za-z0-9+/=]+)$/.exec(clientFinal);
      if (!match || nonce === '') throw new ScramError('malformed SCRAM message');
      const [, withoutProof, binding, finalNonce, proofText] = match;
      if (binding !== channelBinding) throw new ScramError('SCRAM channel binding check failed');
      if (finalNonce !== nonce) throw new ScramError('malformed SCRAM message (nonce mismatch)');
      const proof = Buffer.from(proofText!, 'base64');
      if (proof.length !== KEY_BYTES) throw new ScramError('malformed SCRAM message');
      const authMessage = `${firstMessages},${withoutProof}`;
      return { check: (candidate) => checkProof(proof, authMessage, verifier, candidate) };
    },
  };
}

function checkProof(proof: Buffer, authMessage: string, asked: ScramVerifier, candidate: ScramVerifier) {
  // The client stretched its password with the salt that it was sent: under another salt the proof says nothing.
  if (asked.iterations !== candidate.iterations || !asked.salt.equals(candidate.salt)) return undefined;
  const clientKey = xor(proof, hmac(candidate.storedKey, authMessage));
  if (!timingSafeEqual(sha256(clientKey), candidate.storedKey)) return undefined;
  return { clientKey, serverFinal: `v=${hmac(candidate.serverKey, authMessage).toString('base64')}` };
}

function parseClientFirst(message: string): { header: string; bare: string; clientNonce: string } {
  // gs2-header: flag, then an authzid, which Postgres does not support. The user name is empty or ignored: the
  // startup packet's counts.
  const match = /^((?:n|y|p=[A-Za-z0-9.-]+),([^,]*),)(n=[^,]*,r=([\x21-\x2b\x2d-\x7e]+)(?:,[^,]*)*)$/.exec(message);
  if (!match) throw new ScramError('malformed SCRAM message');
  if (match[2] !== '') throw new ScramError('client uses authorization identity, but it is not supported');
  return { header: match[1]!, bare: match[3]!, clientNonce: match[4]! };
}

/** The bytes that `c=` must hold after the header. Throws when the header does not go with what was offered. */
function checkBinding(header: string, options: ScramServerOptions): Buffer {
  const none = Buffer.alloc(0);
  if (header.startsWith('p=')) {
    if (options.mechanism !== SCRAM_SHA_256_PLUS || !options.endPointHash) {
      throw new ScramError('client asked for SCRAM channel binding without selecting SCRAM-SHA-256-PLUS');
    }
    if (header !== `p=${CHANNEL_BINDING},,`) throw new ScramError('unsupported SCRAM channel-binding type');
    return options.endPointHash;
  }
  if (options.mechanism === SCRAM_SHA_256_PLUS) {
    throw new ScramError('client selected SCRAM-SHA-256-PLUS without channel binding');
  }
  // `y`: the client could bind and believes that we cannot. If we did offer it, somebody removed the offer on the way.
  if (header.startsWith('y') && options.endPointHash) throw new ScramError('SCRAM channel binding negotiation error');
  return none;
}

export interface ScramClient {
  /** client-first-message. */
  first(): string;
  /** Takes server-first-message, gives client-final-message. Throws ScramError. */
  final(serverFirst: string): string;
  /** True when the server knows the verifier too. */
  verify(serverFinal: string): boolean;
}

export interface ScramKeys {
  clientKey: Buffer;
  serverKey: Buffer;
}

/**
 * Keys of a password under a server's salt, computed on this thread: for our own secrets, which need no stretching.
 * Throws ScramError for more than a few iterations.
 */
export function keysOfSecret(secret: string, challenge: { salt: Buffer; iterations: number }): ScramKeys {
  const { salt, iterations } = challenge;
  if (iterations < 1 || iterations > DEFAULT_ITERATIONS) throw new ScramError('too many SCRAM iterations');
  const salted = pbkdf2Sync(Buffer.from(saslprep(secret), 'utf8'), salt, iterations, KEY_BYTES, 'sha256');
  return { clientKey: hmac(salted, 'Client Key'), serverKey: hmac(salted, 'Server Key') };
}

/**
 * Logs in with the keys of an exchange, or with those that suit what the server sends. Without channel binding: it is
 * for Unix sockets.
 */
export function createScramClient(
  from: ScramKeys | ((challenge: { salt: Buffer; iterations: number }) => ScramKeys),
): ScramClient {
  let keys: ScramKeys;
  const clientNonce = randomBytes(NONCE_BYTES).toString('base64');
  const bare = `n=,r=${clientNonce}`;
  let authMessage = '';
  return {
    first: () => `n,,${bare}`,
    final(serverFirst) {
      const match = /^r=([^,]+),s=([^,]+),i=(\d+)$/.exec(serverFirst);
      if (!match || !match[1]!.startsWith(clientNonce) || match[1]!.length === clientNonce.length) {
        throw new ScramError('malformed SCRAM message');
      }
      keys =
        typeof from === 'function'
          ? from({ salt: Buffer.from(match[2]!, 'base64'), iterations: Number(match[3]) })
          : from;
      const withoutProof = `c=biws,r=${match[1]}`;
      authMessage = `${bare},${serverFirst},${withoutProof}`;
      const signature = hmac(sha256(keys.clientKey), authMessage);
      return `${withoutProof},p=${xor(keys.clientKey, signature).toString('base64')}`;
    },
    verify(serverFinal) {
      const expected = Buffer.from(`v=${hmac(keys.serverKey, authMessage).toString('base64')}`);
      const actual = Buffer.from(serverFinal);
      return actual.length === expected.length && timingSafeEqual(actual, expected);
    },
  };
}
