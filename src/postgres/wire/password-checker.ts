/**
 * Checks cleartext passwords against verifiers, remembering the last good ones so that a client which connects again
 * and again costs one HMAC instead of thousands. Neither passwords nor anything that stands for them without the
 * verifier is kept: entries are found by an HMAC over both under a key of this process.
 */
import { createHmac, randomBytes } from 'node:crypto';
import { checkPassword, formatVerifier } from './scram.ts';
import type { ScramVerifier } from './scram.ts';

export interface PasswordChecker {
  /** The ClientKey when the password fits. */
  check(password: string, verifier: ScramVerifier): Promise<Buffer | undefined>;
}

export function createPasswordChecker(maxEntries = 1_000): PasswordChecker {
  const secret = randomBytes(32);
  const known = new Map<string, Buffer>();
  return {
    async check(password, verifier) {
      const id = createHmac('sha256', secret)
        .update(`${formatVerifier(verifier)}\0${password}`)
        .digest('base64');
      const hit = known.get(id);
      if (hit) {
        // Moved to the end: the first entry is the one that was not used for longest.
        known.delete(id);
        known.set(id, hit);
        return hit;
      }
      const clientKey = await checkPassword(password, verifier);
      if (clientKey) {
        known.set(id, clientKey);
        if (known.size > maxEntries) known.delete(known.keys().next().value!);
      }
      return clientKey;
    },
  };
}
