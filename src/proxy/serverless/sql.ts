/**
 * `POST /sql`: one request from its headers to its answer.
 *
 * Who it is comes from the headers (sql-entrant.ts). From then on the request counts as a connection of its endpoint until it is answered. A client that goes away has
 * its query cancelled.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ProxyEndpoint, SocketAddress } from '../../control-plane/proxy-access.types.ts';
import { errorMessage } from '../../lib/errors.ts';
import type { ClientConnection } from '../connections.ts';
import type { ProxyContext } from '../proxy.ts';
import { PostgresRefusal, Refusal, refusalReason, refusals } from '../refusal.ts';
import { reachCompute } from '../reach-compute.ts';
import { ConnectionClosed } from '../../postgres/wire/socket-reader.ts';
import { untilAborted } from '../until-aborted.ts';
import { SMALL_BYTES, createShare } from './byte-budget.ts';
import type { ByteBudgets, Share } from './byte-budget.ts';
import { signClaims } from './claims.ts';
import { Departure } from './departure.ts';
import { createAnswer } from './sql-answer.ts';
import type { Answer } from './sql-answer.ts';
import { NeverRead, createSqlConnection } from './sql-connection.ts';
import type { SqlConnection } from './sql-connection.ts';
import { enter } from './sql-entrant.ts';
import type { Entrant, Gate } from './sql-entrant.ts';
import { RequestTooLarge, QueryInterrupted, errorAnswer } from './sql-error.ts';
import { pipeline } from './sql-messages.ts';
import type { Lease, SqlPool } from './sql-pool.ts';
import { beginText, parseSqlBody, readSqlHeaders } from './sql-request.ts';
import type { Query, SqlBody, SqlHeaders } from './sql-request.ts';

const plain = (text: string, parameters: string[] = []): Query => ({ text, parameters, arrayMode: false });
/** Who takes a large answer more slowly than this holds up others. */
const TAKEN_WITHIN_MS = 120_000;
/** Until the end of the transaction; as a parameter, so that no view of statements shows it. */
const SET_CLAIMS = `SELECT pg_catalog.set_config('pg_session_jwt.jwt', $1, true)`;

export interface SqlEdge extends Gate {
  pool: SqlPool;
  budgets: ByteBudgets;
}

/** Resolves when the request has been answered. Never rejects. */
export async function serveSql(edge: SqlEdge, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const id = randomUUID();
  const departure = new Departure(response);
  const share = createShare(edge.budgets, departure);
  response.once('close', share.release);
  try {
    const headers = readSqlHeaders(request.headers);
    const entrant = await enter(edge, request, headers, departure);
    const bytes = await readBody(request, edge.context.limits.maxSqlRequestBytes, share);
    const body = parseSqlBody(bytes, headers.arrayMode);
    const json = await runCounted(edge, { id, entrant, headers, body, departure, share });
    send(response, { status: 200, id, json, headers: body.batch ? headers.echo : undefined });
  } catch (error) {
    if (departure.gone) return;
    const { context } = edge;
    if (error instanceof Refusal || error instanceof PostgresRefusal) context.observer.refused(refusalReason(error));
    const { status, body } = errorAnswer(error);
    if (status === 500) {
      const entry = { connection: id, address: request.socket.remoteAddress, status, reason: errorMessage(error) };
      context.logger.warn({ ...entry, err: error }, 'query over HTTP failed');
    }
    send(response, { status, id, json: JSON.stringify(body) });
  }
}

interface SqlResponse {
  status: number;
  id: string;
  json: string;
  headers?: Record<string, string> | undefined;
}

/** Head and body in one write. */
function send(response: ServerResponse, { status, id, json, headers }: SqlResponse): void {
  response.writeHead(status, {
    ...headers,
    'neon-request-id': id,
    'access-control-allow-origin': '*',
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(json),
  });
  response.end(json);
  if (json.length <= SMALL_BYTES || response.writableFinished) return;
  const timer = setTimeout(() => response.destroy(), TAKEN_WITHIN_MS);
  response.once('close', () => clearTimeout(timer));
}

/** Rejects with RequestTooLarge, with what the share rejects with, or when the client is gone. */
async function readBody(request: IncomingMessage, maxBytes: number, share: Share): Promise<Buffer> {
  const declaredBytes = Number(request.headers['content-length'] ?? 0);
  if (declaredBytes > maxBytes) throw new RequestTooLarge(maxBytes);
  if (declaredBytes > SMALL_BYTES) await share.hold('requests', declaredBytes);
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let sizeBytes = 0;
    request.on('data', (chunk: Buffer) => {
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) {
        return reject(new RequestTooLarge(maxBytes));
      }
      chunks.push(chunk);
      // Nobody has said how much there is.
      if (declaredBytes === 0 && sizeBytes > SMALL_BYTES && sizeBytes - chunk.length <= SMALL_BYTES) {
        request.pause();
        share.hold('requests', maxBytes).then(() => request.resume(), reject);
      }
    });
    request.on('end', () => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)));
    const onGone = () => {
      if (!request.complete) reject(new ConnectionClosed('connection closed'));
    };
    request.on('error', onGone);
    request.on('close', onGone);
  });
}

interface Work {
  id: string;
  entrant: Entrant;
  headers: SqlHeaders;
  body: SqlBody;
  departure: Departure;
  share: Share;
}

async function runCounted(edge: SqlEdge, work: Work): Promise<string> {
  const { context } = edge;
  const { endpoint, address, role } = work.entrant;
  const release = context.counts.enterQuery(endpoint);
  const connection = context.connections.open(endpoint.endpointId, { id: work.id, kind: 'http', address, role });
  const { traffic } = connection;
  try {
    if (endpoint.disabled) throw refusals.disabledEndpoint();
    traffic.queries += work.body.queries.length;
    const json = await run(edge, work, connection);
    traffic.bytesOut += Buffer.byteLength(json);
    return json;
  } finally {
    connection.close();
    release();
    context.roleChanges.noteSessionEnd(endpoint);
  }
}

async function run(edge: SqlEdge, work: Work, connection: ClientConnection): Promise<string> {
  const { context } = edge;
  const { headers, entrant, departure, share } = work;
  const { maxSqlResponseBytes: maxBytes } = context.limits;
  for (;;) {
    const lease = await leaseConnection(edge, entrant, departure);
    connection.backend = () => lease.connection.processId;
    const before = claimsFor(entrant, lease.connection);
    const { batch, queries } = work.body;
    const all = batch
      ? [plain(beginText(headers.batch)), ...before, ...queries, plain('COMMIT')]
      : [...before, ...queries];
    const onLarge = () => {
      // Postgres has all of it, so that it will not be sent again.
      work.body = { batch, queries: [] };
      lease.connection.pauseUntil(share.hold('answers', maxBytes));
    };
    const arrayModes = all.map(({ arrayMode }) => arrayMode);
    const answer = createAnswer({ rawText: headers.rawText, arrayModes, maxBytes, largeBytes: SMALL_BYTES, onLarge });
    const count = queries.length;
    try {
      await lease.connection.run(sent(pipeline(all), connection), answer.take, departure);
      lease.end('used');
    } catch (error) {
      lease.end('broken');
      // A compute that went to sleep took its idle connections along.
      if (error instanceof NeverRead && lease.reused) continue;
      throw error instanceof NeverRead ? new QueryInterrupted() : error;
    }
    if (answer.rolesChanged) context.roleChanges.note(entrant.endpoint);
    return toJson(answer, batch, { before: before.length, count });
  }
}

/** What a session is told of the JWT; it ends with the transaction, which a query alone is as well. */
function claimsFor({ claims, role }: Entrant, { address, processId }: SqlConnection): Query[] {
  if (claims === undefined) return [];
  if (!address.claimsKey) throw new Error(`a compute that takes no claims let ${role} in`);
  return [plain(SET_CLAIMS, [signClaims(address.claimsKey, { processId, claims, nowMs: Date.now() })])];
}

function sent(bytes: Buffer, { traffic }: ClientConnection): Buffer {
  traffic.bytesIn += bytes.length;
  return bytes;
}

function toJson(answer: Answer, batch: boolean, { before, count }: { before: number; count: number }): string {
  if (answer.failure) throw answer.failure;
  if (!batch) return answer.results[before]!;
  // Those of BEGIN, of what comes behind it, and of COMMIT are ours.
  return `{"results":[${answer.results.slice(before + 1, before + 1 + count).join(',')}]}`;
}

async function leaseConnection({ context, pool }: SqlEdge, entrant: Entrant, departure: Departure): Promise<Lease> {
  const { endpoint, role, database, keys, sessionKey } = entrant;
  const { path } = context.access.awake?.(endpoint) ?? (await wake(context, endpoint, departure));
  return pool.lease({
    endpointId: endpoint.endpointId,
    key: sessionKey,
    path,
    departure,
    connect: async () => {
      const parameters = new Map([
        ['user', role],
        ['database', database],
        ['client_encoding', 'UTF8'],
      ]);
      const { session, reached } = await reachCompute(
        context,
        { endpoint, keys },
        { parameters, role, closed: departure.signal },
      );
      return createSqlConnection(session, reached);
    },
  });
}

function wake(
  { access, limits }: ProxyContext,
  endpoint: ProxyEndpoint,
  { signal }: Departure,
): Promise<SocketAddress> {
  const deadline = AbortSignal.timeout(limits.wakeTimeoutMs);
  return untilAborted(access.wake(endpoint, { signal: AbortSignal.any([signal, deadline]) }), signal);
}
