/**
 * `POST /sql`: one request from its headers to its answer.
 *
 * Who it is comes from the headers, and is checked before a byte of the body is read; nothing is woken before that.
 * From then on the request counts as a connection of its endpoint until it is answered. A client that goes away has
 * its query cancelled.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TLSSocket } from 'node:tls';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProxyEndpoint } from '../../control-plane/proxy-access.types.ts';
import { errorMessage } from '../../lib/errors.ts';
import { normaliseAddress } from '../address-rules.ts';
import { LoginFailed, checkQueryPassword, findEndpoint } from '../authenticate.ts';
import type { Claim } from '../authenticate.ts';
import type { LoginKeys } from '../compute-login.ts';
import type { ClientConnection } from '../connections.ts';
import type { ProxyContext } from '../proxy.ts';
import { PostgresRefusal, Refusal, refusalReason, refusals } from '../refusal.ts';
import { reachCompute } from '../reach-compute.ts';
import { mayBePlain } from '../session.ts';
import { ConnectionClosed } from '../../postgres/wire/socket-reader.ts';
import { untilAborted } from '../until-aborted.ts';
import { parseConnectionString } from './connection-string.ts';
import { createAnswer } from './sql-answer.ts';
import type { Answer } from './sql-answer.ts';
import { NeverRead, createSqlConnection } from './sql-connection.ts';
import { RequestTooLarge, QueryInterrupted, errorAnswer } from './sql-error.ts';
import { pipeline } from './sql-messages.ts';
import type { SqlPool } from './sql-pool.ts';
import { beginText, parseSqlBody, readSqlHeaders } from './sql-request.ts';
import type { Query, SqlBody, SqlHeaders } from './sql-request.ts';

const NO_PARAMETERS: Pick<Query, 'parameters' | 'arrayMode'> = { parameters: [], arrayMode: false };

interface Entrant {
  address: string;
  endpoint: ProxyEndpoint;
  role: string;
  database: string;
  keys: LoginKeys;
}

/** Resolves when the request has been answered. Never rejects. */
export async function serveSql(
  shared: ProxyContext,
  pool: SqlPool,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const id = randomUUID();
  const context = { ...shared, logger: shared.logger.child({ connection: id }) };
  response.setHeader('neon-request-id', id);
  response.setHeader('access-control-allow-origin', '*');
  response.setHeader('content-type', 'application/json');
  const gone = new AbortController();
  response.once('close', () => {
    if (!response.writableFinished) gone.abort(new ConnectionClosed('connection closed'));
  });
  try {
    const headers = readSqlHeaders(request.headers);
    const entrant = await enter(context, request, headers, gone.signal);
    const body = parseSqlBody(await readBody(request, context.limits.maxSqlRequestBytes), headers.arrayMode);
    const json = await runCounted(context, pool, { id, entrant, headers, body, signal: gone.signal });
    if (body.batch) for (const [name, value] of Object.entries(headers.echo)) response.setHeader(name, value);
    response.end(json);
  } catch (error) {
    if (gone.signal.aborted) return;
    if (error instanceof Refusal || error instanceof PostgresRefusal) context.observer.refused(refusalReason(error));
    const { status, body } = errorAnswer(error);
    const entry = { address: request.socket.remoteAddress, status, reason: errorMessage(error) };
    if (status === 500) context.logger.warn({ ...entry, err: error }, 'query over HTTP failed');
    response.statusCode = status;
    response.end(JSON.stringify(body));
  }
}

/** Rejects with Refusal. */
async function enter(
  context: ProxyContext,
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
    const info = parseConnectionString(headers.connectionString, { domain: context.domain, needsPassword: true });
    const { access, mockSecret, passwords, roleChanges } = context;
    const claim: Claim = { access, mockSecret, passwords, roleChanges, role: info.role, address, closed };
    const endpoint = await findEndpoint(claim, info.endpointId, info.choice);
    const keys = await checkOrDelay(context, claim, endpoint, info.password!);
    return { address, endpoint, role: info.role, database: info.database, keys };
  } finally {
    release();
  }
}

async function checkOrDelay(context: ProxyContext, claim: Claim, endpoint: ProxyEndpoint, password: string) {
  try {
    return await checkQueryPassword(claim, endpoint, password);
  } catch (error) {
    if (!(error instanceof LoginFailed)) throw error;
    context.counts.loginFailed();
    const delayMs = context.loginFailures.note(claim.address, error.endpointId);
    if (delayMs > 0) await sleep(delayMs, undefined, { signal: claim.closed }).catch(() => undefined);
    throw refusals.password(claim.role);
  }
}

function readBody(request: IncomingMessage, maxBytes: number): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) return Promise.reject(new RequestTooLarge(maxBytes));
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let sizeBytes = 0;
    request.on('data', (chunk: Buffer) => {
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) {
        return reject(new RequestTooLarge(maxBytes));
      }
      chunks.push(chunk);
    });
    request.on('end', () => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)));
    const onGone = () => reject(new ConnectionClosed('connection closed'));
    request.on('error', onGone);
    request.on('close', onGone);
  });
}

interface Work {
  id: string;
  entrant: Entrant;
  headers: SqlHeaders;
  body: SqlBody;
  signal: AbortSignal;
}

async function runCounted(context: ProxyContext, pool: SqlPool, work: Work): Promise<string> {
  const { endpoint, address, role } = work.entrant;
  const release = context.counts.enter(endpoint);
  const connection = context.connections.open(endpoint.endpointId, { id: work.id, kind: 'http', address, role });
  const { traffic } = connection;
  try {
    if (endpoint.disabled) throw refusals.disabledEndpoint();
    traffic.queries += work.body.queries.length;
    const json = await run(context, pool, work, connection);
    traffic.bytesOut += Buffer.byteLength(json);
    return json;
  } finally {
    connection.close();
    release();
    context.roleChanges.noteSessionEnd(endpoint);
  }
}

async function run(context: ProxyContext, pool: SqlPool, work: Work, connection: ClientConnection): Promise<string> {
  const { headers, body, entrant, signal } = work;
  const queries = body.batch
    ? [{ text: beginText(headers.batch), ...NO_PARAMETERS }, ...body.queries, { text: 'COMMIT', ...NO_PARAMETERS }]
    : body.queries;
  const bytes = pipeline(queries);
  connection.traffic.bytesIn += bytes.length;
  const options = {
    rawText: headers.rawText,
    arrayModes: queries.map(({ arrayMode }) => arrayMode),
    maxBytes: context.limits.maxSqlResponseBytes,
  };
  for (;;) {
    const lease = await leaseConnection(context, pool, entrant, signal);
    connection.backend = () => lease.connection.processId;
    const answer = createAnswer(options);
    try {
      const status = await lease.connection.run(bytes, answer.take, signal);
      lease.end(status);
    } catch (error) {
      lease.end(undefined);
      // A compute that went to sleep took its idle connections along.
      if (error instanceof NeverRead && lease.reused) continue;
      throw error instanceof NeverRead ? new QueryInterrupted() : error;
    }
    if (answer.rolesChanged) context.roleChanges.note(entrant.endpoint);
    return toJson(answer, body.batch);
  }
}

function toJson(answer: Answer, batch: boolean): string {
  if (answer.failure) throw answer.failure;
  if (!batch) return answer.results[0]!;
  // Those of BEGIN and COMMIT are ours.
  return `{"results":[${answer.results.slice(1, -1).join(',')}]}`;
}

async function leaseConnection(context: ProxyContext, pool: SqlPool, entrant: Entrant, signal: AbortSignal) {
  const { endpoint, role, database, keys } = entrant;
  const deadline = AbortSignal.timeout(context.limits.wakeTimeoutMs);
  const waking = context.access.wake(endpoint, { signal: AbortSignal.any([signal, deadline]) });
  const { path } = await untilAborted(waking, signal);
  return pool.lease({
    endpointId: endpoint.endpointId,
    key: [role, database, keys.serverKey.toString('base64')].join('\0'),
    path,
    signal,
    connect: async () => {
      const parameters = new Map([
        ['user', role],
        ['database', database],
        ['client_encoding', 'UTF8'],
      ]);
      const { session, reached } = await reachCompute(
        context,
        { endpoint, keys },
        { parameters, role, closed: signal },
      );
      return createSqlConnection(session, reached);
    },
  });
}
