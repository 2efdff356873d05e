/**
 * HTTP beside Postgres: `POST /sql`, and WebSockets on any path. Connections come from the Postgres port, where their
 * first bytes told them apart, or requests from another server that shares its port.
 */
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { WebSocketServer } from 'ws';
import { normaliseAddress } from '../address-rules.ts';
import type { ProxyContext } from '../proxy.ts';
import { refusals } from '../refusal.ts';
import { mayBePlain, serveStream } from '../session.ts';
import { createByteBudget } from './byte-budget.ts';
import { endpointFromHost } from './connection-string.ts';
import { createKeySets } from './key-sets.ts';
import { createSqlPool } from './sql-pool.ts';
import { createEntrances } from './sql-entrant.ts';
import { serveSql } from './sql.ts';
import type { SqlEdge } from './sql.ts';
import { WebSocketStream } from './websocket-stream.ts';

export interface HttpEdge {
  /** A connection whose first bytes are HTTP; nothing has been read from it. */
  connection(socket: Socket): void;
  /** Serves `/sql`; answers everything else with 400. */
  request(request: IncomingMessage, response: ServerResponse): void;
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  stats(): { pooled: number; pooledIdle: number };
  /** Takes no more requests, closes what is idle; WebSockets are given `graceMs` to end. Resolves when all are gone. */
  close(graceMs: number): Promise<void>;
}

const CORS = {
  allow: 'OPTIONS, POST',
  'access-control-allow-origin': '*',
  'access-control-allow-headers':
    'Authorization, Neon-Connection-String, Neon-Raw-Text-Output, Neon-Array-Mode, Neon-Pool-Opt-In, ' +
    'Neon-Batch-Read-Only, Neon-Batch-Isolation-Level, Neon-Batch-Deferrable',
  'access-control-max-age': '86400',
};
/** A login and a short query. */
const EARLY_SHARE_BYTES = 64 * 1024;
const UPGRADE_REFUSED = 'HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n';

export function createHttpEdge(context: ProxyContext): HttpEdge {
  const { limits } = context;
  const pool = createSqlPool(limits);
  const keySets = createKeySets({ limits, logger: context.logger, nowMs: context.nowMs });
  const budget = () => createByteBudget({ maxBytes: limits.maxSqlHeldBytes, waitMs: limits.sqlWaitMs });
  const budgets = { requests: budget(), answers: budget() };
  const sql = { context, pool, keySets, entrances: createEntrances(), budgets };
  const streams = new Set<WebSocketStream>();
  const sessions = new Set<Promise<void>>();
  const early = { usedBytes: 0, maxBytes: limits.maxWebSocketEarlyBytes, shareBytes: EARLY_SHARE_BYTES };
  let open = 0;
  let closing = false;
  const webSockets = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: limits.maxWebSocketMessageBytes,
    skipUTF8Validation: true,
  });

  const request = (message: IncomingMessage, response: ServerResponse) => {
    if (closing) response.shouldKeepAlive = false;
    serve(sql, message, response);
  };
  const upgrade = (message: IncomingMessage, socket: Duplex, head: Buffer) => {
    // An upgrade takes the socket out of HTTP's time limits; the session has its own.
    socket.on('error', () => undefined);
    const address = normaliseAddress((socket as Socket).remoteAddress);
    const encrypted = socket instanceof TLSSocket;
    if (closing || (!encrypted && !mayBePlain(context, address))) {
      const { message: reason } = refusals.insecure();
      socket.end(`${UPGRADE_REFUSED}content-length: ${reason.length}\r\n\r\n${reason}`);
      return;
    }
    webSockets.handleUpgrade(message, socket, head, (webSocket) => {
      const stream = new WebSocketStream(webSocket, {
        remoteAddress: (socket as Socket).remoteAddress,
        bytesRead: () => (socket as Socket).bytesRead,
        onData: (listener) => void socket.on('data', listener),
        early,
      });
      streams.add(stream);
      stream.once('close', () => streams.delete(stream));
      const origin = {
        encrypted,
        serverName: serverNameOf(message, context.domain),
        onAuthenticated: () => stream.authenticated(),
      };
      const session = serveStream(context, stream, origin).finally(() => sessions.delete(session));
      sessions.add(session);
    });
  };

  const server = createServer(
    {
      headersTimeout: limits.httpHeadTimeoutMs,
      requestTimeout: limits.httpRequestTimeoutMs,
      keepAliveTimeout: limits.httpIdleTimeoutMs,
      connectionsCheckingInterval: Math.min(5_000, limits.httpHeadTimeoutMs),
    },
    request,
  );
  server.on('upgrade', upgrade);
  // It never listens itself, but only this starts the checks of its time limits.
  server.emit('listening');

  return {
    connection(socket) {
      if (closing || open >= limits.maxHttpConnections) return void socket.destroy();
      open += 1;
      socket.once('close', () => (open -= 1));
      server.emit('connection', socket);
    },
    request,
    upgrade,
    stats() {
      const { open: pooled, idle: pooledIdle } = pool.stats();
      return { pooled, pooledIdle };
    },
    async close(graceMs) {
      closing = true;
      // Not listening is no reason to complain: what counts is that idle connections are closed.
      server.close(() => undefined);
      pool.close();
      const timer = setTimeout(() => {
        for (const stream of streams) stream.destroy(new Error('the proxy is closing'));
      }, graceMs);
      await Promise.all(sessions);
      clearTimeout(timer);
    },
  };
}

function serve(sql: SqlEdge, request: IncomingMessage, response: ServerResponse): void {
  const path = request.url?.split('?', 1)[0];
  if (path === '/sql' && request.method === 'POST') return void serveSql(sql, request, response);
  if (path === '/sql' && request.method === 'OPTIONS') {
    response.writeHead(200, CORS).end();
    return;
  }
  response.writeHead(400, { 'content-type': 'application/json', 'access-control-allow-origin': '*' });
  response.end(JSON.stringify('query is not supported'));
}

/**
 * The host of the upgrade says the endpoint, as a TLS server name would. Where names do not resolve, clients go to
 * `localhost/v2?address=<host>:<port>`.
 */
function serverNameOf(request: IncomingMessage, domain: string): string | undefined {
  const withoutPort = (host: string | null | undefined) => host?.replace(/:\d*$/, '');
  const hosts = [request.headers.host, addressParameter(request.url ?? '')];
  for (const host of hosts) {
    const endpoint = endpointFromHost(withoutPort(host) ?? '', domain);
    if (endpoint !== undefined) return `${endpoint}.${domain}`;
  }
  return undefined;
}

function addressParameter(url: string): string | null {
  const at = url.indexOf('?');
  return at < 0 ? null : new URLSearchParams(url.slice(at)).get('address');
}
