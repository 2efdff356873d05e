/**
 * Who is it, and may they? SCRAM-SHA-256(-PLUS) from the branch's verifier where the endpoint is known, a cleartext
 * password with the endpoint in front where it is not.
 *
 * Roles that do not exist go through the same exchange as others and fail at its end. Nothing here wakes a compute.
 */
import type { EndpointChoice, ProxyAccess, ProxyEndpoint } from '../control-plane/proxy-access.types.ts';
import {
  AUTHENTICATION,
  FRONTEND,
  authentication,
  authenticationSasl,
  parsePassword,
  parseSaslInitialResponse,
} from '../postgres/wire/messages.ts';
import type { PasswordChecker } from '../postgres/wire/password-checker.ts';
import {
  SCRAM_SHA_256,
  SCRAM_SHA_256_PLUS,
  ScramError,
  createScramServer,
  mockVerifier,
  parseVerifier,
} from '../postgres/wire/scram.ts';
import type { ScramMechanism, ScramProof, ScramVerifier } from '../postgres/wire/scram.ts';
import { ProtocolError } from '../postgres/wire/startup.ts';
import { checkAddress } from './address-rules.ts';
import type { LoginKeys } from './compute-login.ts';
import { checkEndpointName, meansPooled, splitPasswordPrefix } from './endpoint-name.ts';
import { refusals } from './refusal.ts';
import type { RoleChanges } from './role-changes.ts';
import type { SocketReader } from '../postgres/wire/socket-reader.ts';
import { untilAborted } from './until-aborted.ts';

/** Who wants to enter, and what it takes to find out whether they may. */
export interface Claim {
  access: ProxyAccess;
  role: string;
  address: string;
  mockSecret: Buffer;
  passwords: PasswordChecker;
  roleChanges: RoleChanges;
  /** The client went away. */
  closed: AbortSignal;
}

export interface AuthenticateOptions extends Claim {
  reader: SocketReader;
  send: (bytes: Buffer) => void;
  /** Undefined: the client has to name it with the password. */
  endpointId: string | undefined;
  choice: EndpointChoice;
  /** For channel binding; undefined without TLS. */
  endPointHash: Buffer | undefined;
  maxMessageBytes: number;
  /** The client sends its password before it is asked for it, as WebSocket drivers do. */
  cleartext: boolean;
}

export interface Authenticated {
  endpoint: ProxyEndpoint;
  keys: LoginKeys;
  /** What the client still has to be sent: AuthenticationSASLFinal, where it used SCRAM, and AuthenticationOk. */
  accepted: Buffer;
  /** The name that came with the password is that of a pooled host. */
  pooled?: boolean;
}

/** The password was wrong, or there is no such role. Carries the endpoint for the count of failures. */
export class LoginFailed extends Error {
  readonly endpointId: string;

  constructor(endpointId: string) {
    super('login failed');
    this.endpointId = endpointId;
  }
}

/** Rejects with LoginFailed, Refusal, or what the reader rejects with. */
export async function authenticate(options: AuthenticateOptions): Promise<Authenticated> {
  try {
    if (options.endpointId === undefined) return await byPasswordPrefix(options);
    const endpoint = await findEndpoint(options, options.endpointId, options.choice);
    return options.cleartext ? await byCleartext(options, endpoint) : await byScram(options, endpoint);
  } catch (error) {
    if (error instanceof ScramError || error instanceof ProtocolError) throw refusals.malformedPassword(error.message);
    throw error;
  }
}

/** Rejects with Refusal when there is none, or when it is shut to this address. */
export async function findEndpoint(
  { access, address, closed }: Pick<Claim, 'access' | 'address' | 'closed'>,
  endpointId: string,
  choice?: EndpointChoice,
): Promise<ProxyEndpoint> {
  const endpoint = await untilAborted(access.endpoint(endpointId, choice), closed);
  if (!endpoint) throw refusals.unknownEndpoint();
  // Before the password: addresses that are shut out cannot even guess.
  checkAddress(endpoint, address);
  return endpoint;
}

/** Roles that exist in every cluster and are nobody's to log in with. */
function isInternalRole(role: string): boolean {
  return role === 'cloud_admin' || role.startsWith('pg_');
}

async function readVerifier(claim: Claim, endpoint: ProxyEndpoint): Promise<ScramVerifier> {
  const { access, role, closed } = claim;
  const text = isInternalRole(role) ? undefined : await untilAborted(access.verifier(endpoint, role), closed);
  const verifier = text === undefined ? undefined : parseVerifier(text);
  return verifier ?? mockVerifier(claim.mockSecret, `${endpoint.endpointId} ${role}`);
}

/**
 * A running compute's roles may have been changed by SQL. They are read back before the salt is sent, because a proof
 * over an outdated salt cannot be checked again; and for known and unknown roles alike, so that neither can be told.
 */
async function currentVerifier(claim: Claim, endpoint: ProxyEndpoint): Promise<ScramVerifier> {
  const suspicion = suspicionOf(claim, endpoint);
  if (suspicion !== 'none') await refresh(claim, endpoint, suspicion === 'strong');
  return readVerifier(claim, endpoint);
}

/** Postgres does not ask for passwords of roles that JWTs stand for: what is checked here is all that is checked. */
export function suspicionOf(
  { roleChanges, role }: Pick<Claim, 'roleChanges' | 'role'>,
  endpoint: ProxyEndpoint,
): ReturnType<RoleChanges['suspicion']> {
  const isJwtRole = endpoint.jwks?.some(({ roleNames }) => roleNames.includes(role)) === true;
  return isJwtRole ? 'strong' : roleChanges.suspicion(endpoint);
}

function refresh({ access, closed }: Claim, endpoint: ProxyEndpoint, fresh: boolean): Promise<boolean> {
  return untilAborted(access.refreshVerifiers(endpoint, { fresh }), closed);
}

/** Checks a password that came in the clear. Rejects with LoginFailed. */
async function checkCleartext(claim: Claim, endpoint: ProxyEndpoint, password: string): Promise<LoginKeys> {
  return checkAgainst(claim, endpoint, password, await currentVerifier(claim, endpoint));
}

/**
 * As checkCleartext, but a weak suspicion does not make it wait: every query over HTTP leaves one behind. A password
 * that SQL changed in a way that the proxy cannot see is then good until the next periodic comparison.
 */
export async function checkQueryPassword(claim: Claim, endpoint: ProxyEndpoint, password: string): Promise<LoginKeys> {
  if (suspicionOf(claim, endpoint) === 'strong') await refresh(claim, endpoint, true);
  return checkAgainst(claim, endpoint, password, await readVerifier(claim, endpoint));
}

async function checkAgainst(
  claim: Claim,
  endpoint: ProxyEndpoint,
  password: string,
  known: ScramVerifier,
): Promise<LoginKeys> {
  let verifier = known;
  let clientKey = await claim.passwords.check(password, verifier);
  if (!clientKey && (await refresh(claim, endpoint, false))) {
    verifier = await readVerifier(claim, endpoint);
    clientKey = await claim.passwords.check(password, verifier);
  }
  if (!clientKey) throw new LoginFailed(endpoint.endpointId);
  return { clientKey, serverKey: verifier.serverKey };
}

async function byCleartext(options: AuthenticateOptions, endpoint: ProxyEndpoint): Promise<Authenticated> {
  options.send(authentication(AUTHENTICATION.cleartext));
  const password = parsePassword(await passwordMessage(options));
  const keys = await checkCleartext(options, endpoint, password);
  return { endpoint, keys, accepted: authentication(AUTHENTICATION.ok) };
}

async function byScram(options: AuthenticateOptions, endpoint: ProxyEndpoint): Promise<Authenticated> {
  const { send, endPointHash } = options;
  let verifier = await currentVerifier(options, endpoint);
  const offered = endPointHash ? [SCRAM_SHA_256_PLUS, SCRAM_SHA_256] : [SCRAM_SHA_256];
  send(authenticationSasl(offered));
  const initial = parseSaslInitialResponse(await passwordMessage(options));
  if (!offered.includes(initial.mechanism)) throw refusals.method(initial.mechanism);
  const mechanism = initial.mechanism as ScramMechanism;
  const exchange = createScramServer({ mechanism, verifier, endPointHash });
  send(authentication(AUTHENTICATION.saslContinue, Buffer.from(exchange.first(initial.data), 'latin1')));
  const proof: ScramProof = exchange.final((await passwordMessage(options)).toString('latin1'));
  let checked = proof.check(verifier);
  if (!checked && (await refresh(options, endpoint, false))) {
    verifier = await readVerifier(options, endpoint);
    checked = proof.check(verifier);
  }
  if (!checked) throw new LoginFailed(endpoint.endpointId);
  return {
    endpoint,
    keys: { clientKey: checked.clientKey, serverKey: verifier.serverKey },
    accepted: Buffer.concat([
      authentication(AUTHENTICATION.saslFinal, Buffer.from(checked.serverFinal, 'latin1')),
      authentication(AUTHENTICATION.ok),
    ]),
  };
}

async function byPasswordPrefix(options: AuthenticateOptions): Promise<Authenticated> {
  options.send(authentication(AUTHENTICATION.cleartext));
  const split = splitPasswordPrefix(parsePassword(await passwordMessage(options)));
  if (!split) throw refusals.noEndpoint();
  const endpoint = await findEndpoint(options, checkEndpointName(split.endpoint), options.choice);
  const keys = await checkCleartext(options, endpoint, split.password);
  return { endpoint, keys, accepted: authentication(AUTHENTICATION.ok), pooled: meansPooled(split.endpoint) };
}

async function passwordMessage({ reader, maxMessageBytes }: AuthenticateOptions): Promise<Buffer> {
  const { type, body } = await reader.message(maxMessageBytes);
  if (type !== FRONTEND.password) throw new ProtocolError('expected a password message');
  return body;
}
