/**
 * The public keys that a project's JWKS URLs publish, by their ids. Fetched with limits, kept for a while, and asked
 * for again when a token names a key that is not there, but not more often than every so often: tokens are made by
 * strangers. Nothing of an answer but whether it holds the key ever reaches a client.
 */
import type { CryptoKey, JWK } from 'jose';
import { errorMessage } from '../../lib/errors.ts';
import type { Logger } from '../../lib/log.ts';
import { trustedUrl } from '../../lib/trusted-url.ts';
import type { ProxyLimits } from '../limits.ts';

export interface KeySets {
  /** Empty when there is none of that id, or when its URL does not answer. */
  find(url: string, keyId: string): Promise<readonly PublishedKey[]>;
}

export interface PublishedKey {
  jwk: JWK;
  /** Once it has been used. */
  imported?: Promise<CryptoKey>;
}

export interface KeySetsOptions {
  limits: Pick<ProxyLimits, 'jwksRefreshMs'>;
  logger: Logger;
  /** Milliseconds that only ever grow. */
  nowMs: () => number;
}

/** Older ones are fetched again beside their use; still older ones are not used any more. */
const FRESH_MS = 5 * 60_000;
const USABLE_MS = 60 * 60_000;
const FETCH_WITHIN_MS = 5_000;
const MAX_BYTES = 1024 * 1024;
const MAX_REDIRECTS = 3;
const MAX_SETS = 1_000;

interface KeySet {
  keys: PublishedKey[];
  /** When they were fetched; undefined: never. */
  atMs: number | undefined;
  triedAtMs: number;
  refreshing: Promise<void> | undefined;
}

export function createKeySets({ limits, logger, nowMs }: KeySetsOptions): KeySets {
  const sets = new Map<string, KeySet>();
  const setOf = (url: string): KeySet => {
    const set = sets.get(url) ?? {
      keys: [],
      atMs: undefined,
      triedAtMs: Number.NEGATIVE_INFINITY,
      refreshing: undefined,
    };
    // Moved to the end: the first one is the one that was not used for longest.
    sets.delete(url);
    sets.set(url, set);
    if (sets.size > MAX_SETS) sets.delete(sets.keys().next().value!);
    return set;
  };
  const refresh = async (url: string, set: KeySet) => {
    set.triedAtMs = nowMs();
    try {
      set.keys = await fetchKeys(url);
      set.atMs = nowMs();
    } catch (error) {
      logger.warn({ jwksUrl: url, reason: errorMessage(error) }, 'keys of JWTs could not be fetched');
    }
  };
  /** Undefined: it is too early. */
  const refreshing = (url: string, set: KeySet): Promise<void> | undefined => {
    if (set.refreshing) return set.refreshing;
    if (nowMs() - set.triedAtMs < limits.jwksRefreshMs) return undefined;
    set.refreshing = refresh(url, set).finally(() => (set.refreshing = undefined));
    return set.refreshing;
  };
  return {
    async find(url, keyId) {
      const set = setOf(url);
      const found = () => {
        const usable = set.atMs !== undefined && nowMs() - set.atMs < USABLE_MS;
        return usable ? set.keys.filter(({ jwk }) => jwk.kid === keyId) : [];
      };
      const known = found();
      if (known.length === 0) {
        await refreshing(url, set);
        return found();
      }
      if (nowMs() - set.atMs! >= FRESH_MS) void refreshing(url, set);
      return known;
    },
  };
}

async function fetchKeys(from: string): Promise<PublishedKey[]> {
  const signal = AbortSignal.timeout(FETCH_WITHIN_MS);
  const answer = JSON.parse(await fetchText(from, signal)) as { keys?: unknown } | null;
  if (!Array.isArray(answer?.keys)) throw new Error('the answer is no JSON Web Key Set');
  const isKey = (key: unknown): key is JWK => typeof (key as JWK | null)?.kty === 'string';
  return answer.keys.filter(isKey).map((jwk) => ({ jwk }));
}

/** A redirect stays within the protocol that it began with. */
async function fetchText(from: string, signal: AbortSignal): Promise<string> {
  let url = trustedUrl(from);
  for (let redirects = 0; url && redirects <= MAX_REDIRECTS; redirects += 1) {
    const response = await fetch(url, { signal, redirect: 'manual', headers: { accept: 'application/json' } });
    const location = response.status >= 300 && response.status < 400 ? response.headers.get('location') : null;
    if (location === null) return readText(response);
    await response.body?.cancel();
    const next = trustedUrl(location, url.href);
    url = next?.protocol === url.protocol ? next : undefined;
  }
  throw new Error('it leads elsewhere');
}

async function readText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let sizeBytes = 0;
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    sizeBytes += chunk.length;
    if (sizeBytes > MAX_BYTES) throw new Error(`the answer is longer than ${MAX_BYTES} bytes`);
    chunks.push(chunk);
  }
  if (!response.ok) throw new Error(`it answers ${response.status}`);
  return Buffer.concat(chunks).toString('utf8');
}
