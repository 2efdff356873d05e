/**
 * One client connection, from accept to close, in the order of the protocol:
 * open (TLS, startup) -> endpoint -> authenticate -> wake -> log in to the compute -> relay.
 *
 * Until authentication has succeeded nothing is woken. Every wait ends when the client goes away or its time is up.
 */
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EndpointChoice, ProxyEndpoint, SocketAddress } from '../control-plane/proxy-access.types.ts';
import { errorMessage } from '../lib/errors.ts';
import { backendKeyData, negotiateProtocolVersion } from '../postgres/wire/messages.ts';
import { ProtocolError } from '../postgres/wire/startup.ts';
import type { StartupMessage } from '../postgres/wire/startup.ts';
import { checkAddress, isLoopback, normaliseAddress } from './address-rules.ts';
import { LoginFailed, authenticate } from './authenticate.ts';
import type { Authenticated } from './authenticate.ts';
import { sendCancel } from './cancel.ts';
import { ComputeAway, logIn } from './compute-login.ts';
import type { ComputeSession } from './compute-login.ts';
import { chooseEndpoint, endpointChoice, endpointFromServerName, parseStartupOptions } from './endpoint-name.ts';
import type { StartupOptions } from './endpoint-name.ts';
import { openConnection } from './opening.ts';
import type { Opening } from './opening.ts';
import type { ProxyContext } from './proxy.ts';
import { PostgresRefusal, Refusal, refusalBytes, refusals } from './refusal.ts';
import { relay } from './relay.ts';
import { ConnectionClosed } from '../postgres/wire/socket-reader.ts';
import { untilAborted } from './until-aborted.ts';
import { createWalsenderFilter, replicationMode } from './walsender-filter.ts';

/** Each try after the first wakes again with the address that failed. */
const MAX_REACH_ATTEMPTS = 5;
const REACH_BACKOFF_MS = 50;
/** How long a client may take to read why it was refused. */
const REFUSAL_LINGER_MS = 2_000;

/** Resolves when the connection is over. Never rejects. */
export async function serveClient(context: ProxyContext, plain: Socket): Promise<void> {
  let socket = plain;
  let handshaking = false;
  const ignore = () => undefined;
  plain.on('error', ignore);
  const release = context.counts.unauthenticated();
  // A deadline from outside: whatever is being waited for fails when the socket closes.
  const timer = setTimeout(() => {
    // In the middle of a TLS handshake there is no way to say anything.
    if (handshaking) socket.destroy();
    else refuse(socket, refusals.timeout());
  }, context.limits.handshakeTimeoutMs);
  const authenticated = () => {
    clearTimeout(timer);
    release();
  };
  try {
    if (context.counts.full()) throw refusals.tooManyAttempts();
    const opening = await openConnection(
      plain,
      () => context.secureContext(),
      (secured) => {
        secured.on('error', ignore);
        socket = secured;
        handshaking = true;
      },
      () => (handshaking = false),
    );
    if (opening.packet.kind === 'cancel') await serveCancel(context, opening, opening.packet);
    else await serveStartup(context, opening, opening.packet, authenticated);
  } catch (error) {
    report(context, error, normaliseAddress(plain.remoteAddress));
    if (error instanceof ConnectionClosed || error instanceof ProtocolError) socket.destroy();
    else refuse(socket, error);
  } finally {
    authenticated();
  }
}

function refuse(socket: Socket, error: unknown): void {
  if (socket.destroyed) return;
  socket.end(refusalBytes(error));
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), REFUSAL_LINGER_MS);
  timer.unref();
  socket.once('close', () => clearTimeout(timer));
  // Our half is closed; a client that keeps its own open would otherwise stay.
  socket.once('finish', () => socket.destroySoon());
}

function report(context: ProxyContext, error: unknown, address: string): void {
  const expected = [Refusal, PostgresRefusal, ConnectionClosed, ProtocolError].some((kind) => error instanceof kind);
  const entry = { address, reason: errorMessage(error) };
  if (expected) context.logger.debug(entry, 'connection refused');
  else context.logger.warn({ ...entry, err: error }, 'connection failed');
}

async function serveCancel(
  context: ProxyContext,
  opening: Opening,
  packet: Extract<Opening['packet'], { kind: 'cancel' }>,
): Promise<void> {
  const target = context.cancelKeys.find(packet.processId, packet.secretKey);
  if (target) {
    checkAddress(target.endpoint, normaliseAddress(opening.socket.remoteAddress));
    await sendCancel(target);
  }
  // Known key or not: the answer is always the end of the connection.
  opening.reader.release();
  opening.socket.destroy();
}

async function serveStartup(
  context: ProxyContext,
  opening: Opening,
  packet: StartupMessage,
  authenticated: () => void,
): Promise<void> {
  const { reader, socket } = opening;
  const address = normaliseAddress(socket.remoteAddress);
  if (!opening.encrypted && (context.requireTls || !isLoopback(address))) throw refusals.insecure();
  if (packet.major !== 3) throw refusals.protocolVersion(packet.major, packet.minor);
  const unknownOptions = [...packet.parameters.keys()].filter((name) => name.startsWith('_pq_.'));
  if (packet.minor > 0 || unknownOptions.length > 0) socket.write(negotiateProtocolVersion(unknownOptions));

  const role = packet.parameters.get('user');
  if (!role) throw refusals.missingUser();
  const options = parseStartupOptions(packet.parameters.get('options'));
  const choice = endpointChoice(options.extensions);
  const fromServerName = endpointFromServerName(opening.serverName, context.domain);
  const endpointId = chooseEndpoint(fromServerName, options.endpoint);
  const mode = replicationMode(packet.parameters.get('replication'));

  const login = await authenticateOrDelay(context, opening, { endpointId, choice, role, address });
  authenticated();
  const release = context.counts.enter(login.endpoint);
  try {
    if (login.endpoint.disabled) throw refusals.disabledEndpoint();
    const parameters = computeParameters(packet.parameters, options, mode === 'logical');
    const { session, reached } = await reachCompute(context, login, { parameters, role, closed: reader.closed });
    const key = context.cancelKeys.issue({ endpoint: login.endpoint, address: reached, ...session });
    try {
      if (reader.closed.aborted) session.compute.socket.destroy();
      reader.release();
      const ownKey = backendKeyData(key.processId, key.secretKey);
      socket.write(Buffer.concat([login.accepted, session.greeting, ownKey, session.readyForQuery, session.rest]));
      const filter = mode === 'logical' ? createWalsenderFilter(context.limits.maxReplicationCommandBytes) : undefined;
      const onRoleChange = () => context.roleChanges.note(login.endpoint);
      await relay(socket, session.compute, filter ? { filter, onRoleChange } : { onRoleChange });
    } finally {
      key.revoke();
    }
  } finally {
    release();
    context.roleChanges.noteSessionEnd(login.endpoint);
  }
}

async function authenticateOrDelay(
  context: ProxyContext,
  opening: Opening,
  who: { endpointId: string | undefined; choice: EndpointChoice; role: string; address: string },
): Promise<Authenticated> {
  try {
    return await authenticate({
      ...who,
      access: context.access,
      reader: opening.reader,
      send: (bytes) => opening.socket.write(bytes),
      endPointHash: opening.encrypted ? context.endPointHash() : undefined,
      mockSecret: context.mockSecret,
      passwords: context.passwords,
      maxMessageBytes: context.limits.maxAuthMessageBytes,
      roleChanges: context.roleChanges,
    });
  } catch (error) {
    if (!(error instanceof LoginFailed)) throw error;
    context.counts.loginFailed();
    const delayMs = context.loginFailures.note(who.address, error.endpointId);
    if (delayMs > 0) await sleep(delayMs, undefined, { signal: opening.reader.closed }).catch(() => undefined);
    throw refusals.password(who.role);
  }
}

/** What Postgres is told. Other startup parameters are dropped, unless the client asked for compatibility. */
function computeParameters(
  given: ReadonlyMap<string, string>,
  options: StartupOptions,
  replication: boolean,
): Map<string, string> {
  const user = given.get('user')!;
  const parameters = new Map([['user', user]]);
  parameters.set('database', given.get('database') || user);
  if (options.extensions.get('neon_proxy_params_compat') === 'true') {
    for (const [name, value] of given) if (!name.startsWith('_pq_.')) parameters.set(name, value);
  } else {
    parameters.set('client_encoding', 'UTF8');
    const applicationName = given.get('application_name');
    if (applicationName !== undefined) parameters.set('application_name', applicationName);
  }
  parameters.delete('replication');
  parameters.delete('options');
  if (replication) {
    parameters.set('replication', 'database');
    // A subscriber asks for the encoding of its own database, and stores what it gets.
    const encoding = given.get('client_encoding');
    if (encoding !== undefined) parameters.set('client_encoding', encoding);
  }
  if (options.forwarded !== undefined) parameters.set('options', options.forwarded);
  return parameters;
}

interface Reach {
  parameters: ReadonlyMap<string, string>;
  role: string;
  closed: AbortSignal;
}

/** Wakes the compute and logs in; a compute that is just going down or was replaced is woken again. */
async function reachCompute(
  context: ProxyContext,
  { endpoint, keys }: Authenticated,
  { parameters, role, closed }: Reach,
): Promise<{ session: ComputeSession; reached: SocketAddress }> {
  const deadline = AbortSignal.timeout(context.limits.wakeTimeoutMs);
  const signal = AbortSignal.any([closed, deadline]);
  let stale: SocketAddress | undefined;
  for (let attempt = 1; ; attempt += 1) {
    try {
      const waking = context.access.wake(endpoint, stale ? { signal, stale } : { signal });
      const reached = await untilAborted(waking, signal);
      const timeoutMs = context.limits.loginTimeoutMs;
      stale = reached;
      const session = await logIn({ address: reached, parameters, keys, timeoutMs, signal });
      return { session, reached };
    } catch (error) {
      if (closed.aborted) throw closed.reason;
      if (deadline.aborted) throw refusals.unreachable();
      await explainStaleKey(context, endpoint, role, error);
      if (!(error instanceof ComputeAway)) throw error;
      context.logger.debug({ endpointId: endpoint.endpointId, reason: error.message }, 'compute is away');
      if (attempt === MAX_REACH_ATTEMPTS) throw refusals.unreachable();
      await sleep(REACH_BACKOFF_MS * attempt, undefined, { signal }).catch(() => undefined);
    }
  }
}

/** Postgres refused the key: SQL changed the password since the verifier was read, so the client's is outdated. */
async function explainStaleKey(context: ProxyContext, endpoint: ProxyEndpoint, role: string, error: unknown) {
  if (!(error instanceof PostgresRefusal) || error.code !== '28P01') return;
  await context.access.refreshVerifiers(endpoint);
  throw refusals.password(role);
}
