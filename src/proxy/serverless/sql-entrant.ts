/**
 * Who sends a query over HTTP, by its headers: a role with its password, or a JWT that may stand for the role.
 * Checked before a byte of the body is read; nothing is woken by it.
 */
import type { IncomingMessage } from 'node:http';
import type { TLSSocket } from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProxyEndpoint } from '../../control-plane/proxy-access.types.ts';
import { normaliseAddress } from '../address-rules.ts';
import { LoginFailed, checkQueryPassword, findEndpoint } from '../authenticate.ts';
import type { Claim } from '../authenticate.ts';
import type { LoginKeys } from '../compute-login.ts';
import type { ProxyContext } from '../proxy.ts';
import { Refusal, refusals } from '../refusal.ts';
import { mayBePlain } from '../session.ts';
import { parseConnectionString } from './connection-string.ts';
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
  /** Of the JWT, as JSON; undefined: there was a password. */
  claims: string | undefined;
}

/** Rejects with Refusal. */
export async function enter(
  context: ProxyContext,
  keySets: KeySets,
  request: IncomingMessage,
  headers: SqlHeaders,
  closed: AbortSignal,
): Promise<Entrant> {
  const address = normaliseAddress(request.socket.remoteAddress);
  const encrypted = (request.socket as TLSSocket).encrypted === true;
  if (!encrypted && !mayBePlain(context, address)) throw refusals.insecure();
  const release = context.counts.unauthenticated();
  try {
    if (context.counts.full()) throw refusals.tooManyAttempts();
    const { token } = headers;
    const needsPassword = token === undefined;
    const info = parseConnectionString(headers.connectionString, { domain: context.domain, needsPassword });
    const { access, mockSecret, passwords, roleChanges } = context;
    const claim: Claim = { access, mockSecret, passwords, roleChanges, role: info.role, address, closed };
    const endpoint = await findEndpoint(claim, info.endpointId, info.choice);
    const { role, database } = info;
    if (token === undefined) {
      const check = () => checkQueryPassword(claim, endpoint, info.password!);
      const keys = await orDelay(context, claim, endpoint, check);
      return { address, endpoint, role, database, keys, claims: undefined };
    }
    // Computes of the past let nobody in without a password.
    const rules = endpoint.point === undefined ? (endpoint.jwks ?? []) : [];
    const check = () => checkToken({ token, role, rules, keySets, nowMs: Date.now() });
    const claims = await orDelay(context, claim, endpoint, check);
    return { address, endpoint, role, database, keys: undefined, claims };
  } finally {
    release();
  }
}

async function orDelay<T>(context: ProxyContext, claim: Claim, endpoint: ProxyEndpoint, check: () => Promise<T>) {
  try {
    return await check();
  } catch (error) {
    if (!(error instanceof LoginFailed || error instanceof Refusal)) throw error;
    context.counts.loginFailed();
    const delayMs = context.loginFailures.note(claim.address, endpoint.endpointId, claim.role);
    if (delayMs > 0) await sleep(delayMs, undefined, { signal: claim.closed }).catch(() => undefined);
    throw error instanceof LoginFailed ? refusals.password(claim.role) : error;
  }
}
