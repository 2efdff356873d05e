/**
 * `Neon-Connection-String`: `postgres[ql]://user:password@host/database[?options=endpoint%3D…]`. It says which endpoint
 * is meant, whatever host the request itself went to.
 */
import { isIP } from 'node:net';
import type { EndpointChoice } from '../../control-plane/proxy-access.types.ts';
import { chooseEndpoint, endpointChoice, endpointFromServerName, parseStartupOptions } from '../endpoint-name.ts';
import { Refusal, refusals } from '../refusal.ts';

export interface ConnectionInfo {
  endpointId: string;
  choice: EndpointChoice;
  role: string;
  database: string;
  /** Undefined where the string has none. */
  password: string | undefined;
}

const SCHEMES = new Set(['postgres:', 'postgresql:']);

/** Throws Refusal. `needsPassword` is false when a token says who it is. */
export function parseConnectionString(
  header: string | undefined,
  options: { domain: string; needsPassword: boolean },
): ConnectionInfo {
  if (header === undefined) throw new Refusal('invalid header: neon-connection-string');
  const url = parseUrl(header);
  if (!SCHEMES.has(url.protocol)) throw new Refusal('invalid connection string: incorrect scheme');
  const database = decode(url.pathname.slice(1).split('/')[0]!);
  if (database === '') throw new Refusal('invalid connection string: missing database name');
  const role = decode(url.username);
  if (role === '') throw new Refusal('invalid connection string: missing username');
  if (url.password === '' && options.needsPassword) {
    throw new Refusal('invalid connection string: missing authentication credentials: required password');
  }
  if (url.hostname === '') throw new Refusal('invalid connection string: missing hostname');
  const startup = parseStartupOptions(url.searchParams.get('options') ?? undefined);
  const endpointId = chooseEndpoint(endpointFromHost(url.hostname, options.domain), startup.endpoint);
  if (endpointId === undefined) throw refusals.noEndpoint();
  if (/\0/.test(role + database)) throw new Refusal('invalid connection string: invalid character');
  const choice = endpointChoice(startup.extensions);
  return { endpointId, choice, role, database, password: url.password === '' ? undefined : decode(url.password) };
}

/** The first label, also under another domain than ours: strings from elsewhere mean the same endpoint. */
export function endpointFromHost(host: string, domain: string): string | undefined {
  const name = host.toLowerCase();
  if (name === domain || isIP(name.replace(/^\[|\]$/g, '')) !== 0) return undefined;
  if (name.endsWith(`.${domain}`)) return endpointFromServerName(name, domain);
  const [label, ...rest] = name.split('.');
  return rest.length > 0 && label!.startsWith('ep-') ? label : undefined;
}

function parseUrl(header: string): URL {
  try {
    // Node reads headers byte by byte.
    return new URL(Buffer.from(header, 'latin1').toString('utf8'));
  } catch {
    throw new Refusal('invalid connection string: it is not a URL');
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
