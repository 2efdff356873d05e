/**
 * Who sends a query over HTTP, by its headers: a role with its password, or a JWT that may stand for the role.
 * Checked before a byte of the body is read; nothing is woken by it.
 */
import { hash, randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { TLSSocket } from 'node:tls';
import type { ProxyEndpoint } from '../../control-plane/proxy-access.types.ts';
import { parseVerifier } from '../../postgres/wire/scram.ts';
import { checkAddress, normaliseAddress } from '../address-rules.ts';
import { LoginFailed, checkQueryPassword, findEndpoint, suspicionOf } from '../authenticate.ts';
import type { Claim } from '../authenticate.ts';
import type { LoginKeys } from '../compute-login.ts';
import { slowDown } from '../login-failures.ts';
import type { ProxyContext } from '../proxy.ts';
import { Refusal, refusals } from '../refusal.ts';
import { mayBePlain } from '../session.ts';
import { parseConnectionString } from './connection-string.ts';
import type { ConnectionInfo } from './connection-string.ts';
import type { Departure } from './departure.ts';
import { checkToken } from './json-web-token.ts';
import type { KeySets } from './key-sets.ts';
import type { SqlHeaders } from './sql-request.ts';

export interface Entrant {
  address: string;
  endpoint: ProxyEndpoint;
  role: string;
  database: string;
  /** Undefined: the compute lets the role in without. */
  keys: LoginKeys | undefined;
  /** Those with the same one may use the same sessions, one after the other. */
  sessionKey: string;
  /** Of the JWT, as JSON; undefined: there was a password. */
  claims: string | undefined;
}

/** What requests have in common that want to enter. */
export interface Gate {
  context: ProxyContext;
  keySets: KeySets;
  entrances: Entrances;
}

/**
 * Those that have entered with a password, by a keyed hash of the connection string that they sent: again, they cost
 * two looks into memory. Whatever has changed since (verifier, addresses, endpoint) sends them the long way.
 */
export interface Entrances {
  idOf(connectionString: string): string;
  get(id: string): Entrance | undefined;
  note(id: string, entrance: Entrance): void;
  forget(id: string): void;
}

type Entrance = Pick<Entrant, 'role' | 'database' | 'keys' | 'sessionKey'> &
  Pick<ConnectionInfo, 'endpointId' | 'choice'> & {
    /** That the password was good for. */
    verifier: string;
  };

export function createEntrances(maxEntries = 1_000): Entrances {
  const secret = randomBytes(32).toString('base64');
  const known = new Map<string, Entrance>();
  return {
    idOf: (connectionString) => hash('sha256', secret + connectionString, 'base64'),
    get: (id) => known.get(id),
    note: (id, entrance) => {
      if (known.size >= maxEntries) known.delete(known.keys().next().value!);
      known.set(id, entrance);
    },
    forget: (id) => void known.delete(id),
  };
}

/** Rejects with Refusal. */
export async function enter(
  { context, entrances, keySets }: Gate,
  request: IncomingMessage,
  headers: SqlHeaders,
  departure: Departure,
): Promise<Entrant> {
  const address = normaliseAddress(request.socket.remoteAddress);
  const encrypted = (request.socket as TLSSocket).encrypted === true;
  if (!encrypted && !mayBePlain(context, address)) throw refusals.insecure();
  const release = context.counts.unauthenticated();
  try {
    if (context.counts.full()) throw refusals.tooManyAttempts();
    const { connectionString, token } = headers;
    if (token !== undefined) return await enterByToken(context, keySets, headers, { address, token, departure });
    const id = connectionString === undefined ? '' : entrances.idOf(connectionString);
    const again = entrances.get(id);
    const entrant = again && (await enterAgain(context, again, address));
    if (entrant) return entrant;
    entrances.forget(id);
    return await enterByPassword(context, headers, { address, departure }, (entrance) => entrances.note(id, entrance));
  } finally {
    release();
  }
}

/** Undefined: something is not as it was. Rejects with Refusal for an address that is shut out. */
async function enterAgain(context: ProxyContext, entrance: Entrance, address: string): Promise<Entrant | undefined> {
  const { access, roleChanges } = context;
  const { endpointId, choice, role, database, keys, sessionKey } = entrance;
  const endpoint = await access.endpoint(endpointId, choice);
  if (!endpoint) return undefined;
  checkAddress(endpoint, address);
  if (suspicionOf({ roleChanges, role }, endpoint) === 'strong') return undefined;
  if ((await access.verifier(endpoint, role)) !== entrance.verifier) return undefined;
  return { address, endpoint, role, database, keys, sessionKey, claims: undefined };
}

async function enterByPassword(
  context: ProxyContext,
  headers: SqlHeaders,
  { address, departure }: { address: string; departure: Departure },
  note: (entrance: Entrance) => void,
): Promise<Entrant> {
  const info = parseConnectionString(headers.connectionString, { domain: context.domain, needsPassword: true });
  const { endpointId, choice, role, database } = info;
  const claim = claimOf(context, role, address, departure);
  const endpoint = await findEndpoint(claim, endpointId, choice);
  const keys = await orDelay(context, claim, endpoint, () => checkQueryPassword(claim, endpoint, info.password!));
  const sessionKey = [role, database, keys.serverKey.toString('base64')].join('\0');
  const verifier = await context.access.verifier(endpoint, role);
  // Another one may have come in between, which nobody has checked anything against.
  if (verifier !== undefined && parseVerifier(verifier)?.serverKey.equals(keys.serverKey)) {
    note({ endpointId, choice, role, database, keys, sessionKey, verifier });
  }
  return { address, endpoint, role, database, keys, sessionKey, claims: undefined };
}

async function enterByToken(
  context: ProxyContext,
  keySets: KeySets,
  headers: SqlHeaders,
  { address, token, departure }: { address: string; token: string; departure: Departure },
): Promise<Entrant> {
  const info = parseConnectionString(headers.connectionString, { domain: context.domain, needsPassword: false });
  const { endpointId, choice, role, database } = info;
  const claim = claimOf(context, role, address, departure);
  const endpoint = await findEndpoint(claim, endpointId, choice);
  // Computes of the past let nobody in without a password.
  const rules = endpoint.point === undefined ? (endpoint.jwks ?? []) : [];
  const check = () => checkToken({ token, role, rules, keySets, nowMs: Date.now() });
  const claims = await orDelay(context, claim, endpoint, check);
  const sessionKey = [role, database, 'JWT'].join('\0');
  return { address, endpoint, role, database, keys: undefined, sessionKey, claims };
}

function claimOf(context: ProxyContext, role: string, address: string, { signal: closed }: Departure): Claim {
  const { access, mockSecret, passwords, roleChanges } = context;
  return { access, mockSecret, passwords, roleChanges, role, address, closed };
}

async function orDelay<T>(context: ProxyContext, claim: Claim, endpoint: ProxyEndpoint, check: () => Promise<T>) {
  try {
    return await check();
  } catch (error) {
    if (!(error instanceof LoginFailed || error instanceof Refusal)) throw error;
    await slowDown(context, { ...claim, endpointId: endpoint.endpointId });
    throw error instanceof LoginFailed ? refusals.password(claim.role) : error;
  }
}
