/**
 * Which certificate a client is shown: the proxy's own, or one for the very name that it asked for where a wildcard
 * does not do. Those are kept in memory, the most recently used ones.
 */
import { constants } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import type { SecureContext } from 'node:tls';
import type { Certificates } from './certificates.ts';
import { RESERVED_LABELS } from './endpoint-name.ts';
import type { Identity } from './opening.ts';

const MAX_NAMES = 1_000;
/** Leaves of a certificate that was not renewed for long must not outlive it in memory. */
const KEEP_MS = 30 * 86_400_000;
const ENDPOINT_LABEL = /^ep-[a-z0-9-]{1,60}$/;

export function createIdentities(
  tls: Certificates,
  domain: string,
): (serverName: string | undefined) => Promise<Identity> {
  const own = Promise.resolve({ context: makeSecureContext(tls.cert, tls.key), endPointHash: tls.endPointHash });
  const named = new Map<string, { identity: Promise<Identity>; atMs: number }>();
  const sign = async (name: string): Promise<Identity> => {
    const { cert, endPointHash } = await tls.forName!(name);
    return { context: makeSecureContext(cert, tls.key), endPointHash };
  };
  return (serverName) => {
    const name = serverName?.toLowerCase().replace(/\.$/, '');
    if (!tls.forName || name === undefined || !needsOwn(name, domain)) return own;
    let known = named.get(name);
    if (!known || performance.now() - known.atMs > KEEP_MS) {
      known = { identity: sign(name), atMs: performance.now() };
      known.identity.catch(() => named.delete(name));
    }
    // Deleted first, so that the one that was not used for longest stays in front.
    named.delete(name);
    named.set(name, known);
    if (named.size > MAX_NAMES) named.delete(named.keys().next().value!);
    return known.identity;
  };
}

function needsOwn(name: string, domain: string): boolean {
  if (!name.endsWith(`.${domain}`)) return false;
  const label = name.slice(0, -domain.length - 1);
  return RESERVED_LABELS.has(label) || ENDPOINT_LABEL.test(label);
}

function makeSecureContext(cert: string, key: string): SecureContext {
  return createSecureContext({
    cert,
    key,
    minVersion: 'TLSv1.2',
    // Tickets would let a client resume under another server name than the one it was checked for.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  });
}
