/**
 * One client connection, from accept to close, in the order of the protocol:
 * open (TLS, startup) -> endpoint -> authenticate -> wake -> log in to the compute -> relay.
 *
 * Until authentication has succeeded nothing is woken. Every wait ends when the client goes away or its time is up.
 */
import type { Socket } from 'node:net';
import type { EndpointChoice } from '../control-plane/proxy-access.types.ts';
import { errorMessage } from '../lib/errors.ts';
import { backendKeyData, negotiateProtocolVersion, notice } from '../postgres/wire/messages.ts';
import { ProtocolError } from '../postgres/wire/startup.ts';
import type { StartupMessage } from '../postgres/wire/startup.ts';
import { checkAddress, isLoopback, normaliseAddress } from './address-rules.ts';
import { LoginFailed, authenticate } from './authenticate.ts';
import type { Authenticated } from './authenticate.ts';
import { sendCancel } from './cancel.ts';
import type { ClientStream } from './client-stream.ts';
import { newConnectionId } from './connections.ts';
import type { ClientConnection, ConnectionKind } from './connections.ts';
import type { Place } from './crowd.ts';
import {
  chooseEndpoint,
  endpointChoice,
  endpointFromServerName,
  meansPooled,
  parseStartupOptions,
} from './endpoint-name.ts';
import type { StartupOptions } from './endpoint-name.ts';
import { slowDown } from './login-failures.ts';
import { openConnection, readFirstPacket } from './opening.ts';
import type { Opening } from './opening.ts';
import type { ProxyContext } from './proxy.ts';
import { readProxyHeader, setRemoteAddress } from './proxy-header.ts';
import { PostgresRefusal, Refusal, refusalBytes, refusalReason, refusals } from './refusal.ts';
import { reachCompute } from './reach-compute.ts';
import { relay } from './relay.ts';
import { ConnectionClosed, createSocketReader } from '../postgres/wire/socket-reader.ts';
import { createWalsenderFilter, replicationMode } from './walsender-filter.ts';

/** How long a client may take to read why it was refused. */
const REFUSAL_LINGER_MS = 2_000;

/** Takes a connection that turned out to speak HTTP. */
export type HttpHandler = (socket: Socket) => void;

/** Resolves when the connection is over, or `serveHttp` has it. Never rejects. */
export function serveClient(context: ProxyContext, plain: Socket, serveHttp: HttpHandler): Promise<void> {
  return serve(context, plain, 'direct', async (phase) => {
    const source = context.proxyProtocol ? await readSource(plain) : undefined;
    if (source !== undefined) phase.place?.move(source);
    const opening = await openConnection(
      plain,
      context.identify,
      (secured) => {
        secured.on('error', () => undefined);
        if (source !== undefined) setRemoteAddress(secured, source);
        phase.socket = secured;
        phase.handshaking = true;
      },
      () => (phase.handshaking = false),
    );
    if (opening.kind === 'postgres') return opening;
    phase.authenticated();
    serveHttp(opening.socket);
    return undefined;
  });
}

/** What the load balancer says; undefined: it speaks for itself. */
async function readSource(plain: Socket): Promise<string | undefined> {
  const reader = createSocketReader(plain);
  try {
    const source = await readProxyHeader(reader);
    if (source !== undefined) setRemoteAddress(plain, source);
    return source;
  } finally {
    reader.release();
  }
}

export interface StreamOrigin {
  encrypted: boolean;
  /** Says the endpoint as a TLS server name would. */
  serverName: string | undefined;
  onAuthenticated: () => void;
}

/** The same for a stream that begins with a startup packet, and whose client sends its password in the clear. */
export function serveStream(context: ProxyContext, stream: ClientStream, origin: StreamOrigin): Promise<void> {
  return serve(context, stream, 'websocket', async (phase) => {
    const { encrypted, serverName } = origin;
    const { authenticated } = phase;
    phase.authenticated = () => {
      authenticated();
      origin.onAuthenticated();
    };
    const reader = createSocketReader(stream);
    const packet = await readFirstPacket(reader);
    const opening = { kind: 'postgres', socket: stream, reader, packet, cleartext: true } as const;
    return { ...opening, encrypted, serverName, endPointHash: undefined };
  });
}

interface Phase {
  connectionId: string;
  kind: ConnectionKind;
  socket: ClientStream;
  /** Among those who have not authenticated. */
  place: Place | undefined;
  handshaking: boolean;
  /** Ends the time limit of the handshake. */
  authenticated: () => void;
}

async function serve(
  shared: ProxyContext,
  client: ClientStream,
  kind: ConnectionKind,
  open: (phase: Phase) => Promise<Opening | undefined>,
): Promise<void> {
  client.on('error', () => undefined);
  const connectionId = newConnectionId();
  const context = { ...shared, logger: shared.logger.child({ connection: connectionId }) };
  const release = context.counts.unauthenticated();
  let cutOff = false;
  // From outside: whatever is being waited for fails when the socket closes.
  const cut = (refusal: Refusal) => {
    cutOff = true;
    context.observer.refused(refusalReason(refusal));
    // In the middle of a TLS handshake there is no way to say anything.
    if (phase.handshaking) phase.socket.destroy();
    else refuse(phase.socket, refusal);
  };
  const timer = setTimeout(() => cut(refusals.timeout()), context.limits.handshakeTimeoutMs);
  const address = normaliseAddress(client.remoteAddress);
  const place = context.crowd.enter(address, () => cut(refusals.tooManyAttempts()));
  const authenticated = () => {
    clearTimeout(timer);
    place?.leave();
    release();
  };
  const phase: Phase = { connectionId, kind, socket: client, place, handshaking: false, authenticated };
  try {
    if (!place || context.counts.full()) throw refusals.tooManyAttempts();
    const opening = await open(phase);
    if (opening?.packet.kind === 'cancel') await serveCancel(context, opening, opening.packet);
    else if (opening) await serveStartup(context, opening, opening.packet as StartupMessage, phase);
  } catch (error) {
    report(context, error, normaliseAddress(client.remoteAddress));
    if (!cutOff) context.observer.refused(refusalReason(error));
    if (error instanceof ConnectionClosed || error instanceof ProtocolError) phase.socket.destroy();
    else refuse(phase.socket, error);
  } finally {
    authenticated();
  }
}

function refuse(socket: ClientStream, error: unknown): void {
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
    await target.send();
  }
  // Known key or not: the answer is always the end of the connection.
  opening.reader.release();
  opening.socket.destroy();
}

async function serveStartup(
  context: ProxyContext,
  opening: Opening,
  packet: StartupMessage,
  phase: Phase,
): Promise<void> {
  const { socket } = opening;
  const address = normaliseAddress(socket.remoteAddress);
  if (!opening.encrypted && !mayBePlain(context, address)) throw refusals.insecure();
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

  const login = greeted(
    await authenticateOrDelay(context, opening, { endpointId, choice, role, address }),
    context.greeting,
    phase.connectionId,
  );
  phase.authenticated();
  if (login.endpoint.disabled) throw refusals.disabledEndpoint();
  const pooled = login.pooled || meansPooled(fromServerName, options.endpoint);
  if (pooled && mode !== 'none') throw refusals.unsupportedStartupParameter('replication');
  const connection = context.connections.open(login.endpoint.endpointId, {
    id: phase.connectionId,
    kind: pooled && phase.kind === 'direct' ? 'pooled' : phase.kind,
    address,
    role,
    applicationName: packet.parameters.get('application_name'),
  });
  const openedMs = performance.now();
  const about = { endpoint: login.endpoint.endpointId, kind: connection.kind, address };
  context.logger.debug(about, 'connection opened');
  try {
    const given = packet.parameters;
    if (pooled) await context.pooler.serve({ opening, login, role, given, options: options.forwarded, connection });
    else await serveDirect(context, opening, { login, role, given, options, mode, connection });
  } finally {
    connection.close();
    context.logger.debug({ ...about, durationMs: Math.round(performance.now() - openedMs) }, 'connection closed');
  }
}

/** What it is told behind its login begins with the notice. */
function greeted(login: Authenticated, greeting: string | undefined, connectionId: string): Authenticated {
  if (greeting === undefined) return login;
  const told = notice(`${greeting}, session_id: ${connectionId}`);
  return { ...login, accepted: Buffer.concat([login.accepted, told]) };
}

interface DirectLogin {
  login: Authenticated;
  role: string;
  /** The startup packet. */
  given: ReadonlyMap<string, string>;
  options: StartupOptions;
  mode: ReturnType<typeof replicationMode>;
  connection: ClientConnection;
}

async function serveDirect(context: ProxyContext, opening: Opening, direct: DirectLogin): Promise<void> {
  const { reader, socket } = opening;
  const { login, role, given, options, mode, connection } = direct;
  const release = context.counts.enter(login.endpoint);
  try {
    const parameters = computeParameters(given, options, mode === 'logical');
    const { session, reached } = await reachCompute(context, login, { parameters, role, closed: reader.closed });
    // When it was counted there may have been no compute to tell.
    context.counts.reached(login.endpoint);
    const { processId, secretKey } = session;
    connection.backend = () => processId;
    const send = () => sendCancel({ address: reached, processId, secretKey });
    const key = context.cancelKeys.issue({ endpoint: login.endpoint, send });
    try {
      if (reader.closed.aborted) session.compute.destroy();
      reader.release();
      const ownKey = backendKeyData(key.processId, key.secretKey);
      socket.write(Buffer.concat([login.accepted, session.greeting, ownKey, session.readyForQuery, session.rest]));
      const filter = mode === 'logical' ? createWalsenderFilter(context.limits.maxReplicationCommandBytes) : undefined;
      const onRoleChange = () => context.roleChanges.note(login.endpoint);
      const { traffic } = connection;
      await relay(socket, session.compute, { traffic, onRoleChange, ...(filter && { filter }) });
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
      endPointHash: opening.endPointHash,
      cleartext: opening.cleartext,
      closed: opening.reader.closed,
      mockSecret: context.mockSecret,
      passwords: context.passwords,
      maxMessageBytes: context.limits.maxAuthMessageBytes,
      roleChanges: context.roleChanges,
    });
  } catch (error) {
    if (!(error instanceof LoginFailed)) throw error;
    const { address, role } = who;
    await slowDown(context, { address, role, endpointId: error.endpointId, closed: opening.reader.closed });
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

/** Without TLS only on the loopback interface, and only where no real domain says otherwise. */
export function mayBePlain({ requireTls }: Pick<ProxyContext, 'requireTls'>, address: string): boolean {
  return !requireTls && isLoopback(address);
}
