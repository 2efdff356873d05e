/**
 * The HTTP edge: Fastify with the routes of the contract, one error shape, request ids and security headers.
 *
 *   /api/v2/...   the contract (routes.ts)
 *   /api/v1/...   410, pointing to v2
 *   /healthz      200 while the process serves
 *   /metrics      for Prometheus, with a personal API key
 *   /sql, and every WebSocket   handed to the data plane as they come, when there is one
 *
 * Bodies arrive as bytes; the contract decodes them (JSON or form) and validates. Bodies, headers and times are bounded.
 * There are no CORS headers: a browser page of another origin has no business with API keys.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { fastify } from 'fastify';
import { createContract } from '../contract/contract.ts';
import type { ContractDocument } from '../contract/document.ts';
import { assertPersonalKey } from '../control-plane/access.ts';
import type { ControlPlane } from '../control-plane/control-plane.ts';
import { listenOnTwin, type LoopbackTwin } from '../lib/loopback-twin.ts';
import { AppError, errorMessage } from '../lib/errors.ts';
import type { Logger } from '../lib/log.ts';
import { authenticate, type Authenticator } from './authenticate.ts';
import { errorBody, errorStatus, noSuchRoute, toAppError } from './errors.ts';
import type { HandlerTable } from './handler.ts';
import { requestId } from './request-id.ts';
import { hasEmptyParameter, registerRoutes } from './routes.ts';

const BODY_LIMIT_BYTES = 1024 * 1024;
const REQUEST_TIMEOUT_MS = 60_000;
const KEEP_ALIVE_TIMEOUT_MS = 72_000;
const MAX_PARAMETER_LENGTH = 2048;
const CLOSE_TIMEOUT_MS = 5_000;

export interface ApiServerOptions {
  controlPlane: ControlPlane;
  handlers: HandlerTable;
  document: ContractDocument;
  logger: Logger;
  dataPlane?: DataPlane;
  metrics?: MetricsSource;
}

export interface MetricsSource {
  readonly contentType: string;
  read(): Promise<string>;
}

/** SQL over HTTP and WebSockets; main.ts connects it. */
export interface DataPlane {
  request(request: IncomingMessage, response: ServerResponse): void;
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
}

export interface ApiServer {
  /** For routes of other parts (console, reference page) and for tests (`inject`). */
  app: FastifyInstance;
  /** Port 0 takes a free one. Throws Error naming `--api-port` or `--listen` when it cannot listen there. */
  start(listen: string, port: number): Promise<{ host: string; port: number }>;
  /** Stops accepting, drops idle connections, lets running requests end for a few seconds, then cuts the rest. */
  close(): Promise<void>;
}

export function createApiServer(options: ApiServerOptions): ApiServer {
  const { controlPlane, handlers, logger } = options;
  const app = createApp(logger);
  const authenticator: Authenticator = (token, remoteAddress) =>
    controlPlane.apiKeys.authenticate(token, remoteAddress);
  registerRoutes(app, {
    contract: createContract(options.document),
    handlers,
    controlPlane,
    authenticator,
  });
  app.get('/healthz', () => ({ status: 'ok' }));
  if (options.metrics) serveMetrics(app, options.metrics, authenticator);
  for (const url of ['/api/v1', '/api/v1/*']) app.all(url, answerGone);
  if (options.dataPlane) serveDataPlane(app, options.dataPlane);
  let twin: LoopbackTwin | undefined;
  return {
    app,
    start: async (listen, port) => {
      const address = await start(app, listen, port);
      const taken = () => app.log.warn(address, 'another program has this port of ::1; see --api-port');
      twin = await listenOnTwin(app.server, listen, address.port, taken);
      return address;
    },
    close: () => {
      twin?.close();
      return close(app);
    },
  };
}

/** Before anything reads their bodies: its limits are others. */
function serveDataPlane(app: FastifyInstance, dataPlane: DataPlane): void {
  app.all(
    '/sql',
    {
      onRequest: (request, reply) => {
        reply.hijack();
        dataPlane.request(request.raw, reply.raw);
      },
    },
    () => undefined,
  );
  app.server.on('upgrade', (request, socket, head) => dataPlane.upgrade(request, socket, head));
}

function serveMetrics(app: FastifyInstance, metrics: MetricsSource, authenticator: Authenticator): void {
  app.get('/metrics', async (request, reply) => {
    assertPersonalKey(await authenticate(authenticator, request.headers.authorization, request.ip));
    return reply.type(metrics.contentType).send(await metrics.read());
  });
}

function createApp(logger: Logger): FastifyInstance {
  const app = fastify({
    logger: false,
    genReqId: (request) => requestId(request.headers['x-request-id']),
    requestIdHeader: false,
    bodyLimit: BODY_LIMIT_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    // Running requests end, and what still arrives on open connections is served: close() bounds the wait.
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    routerOptions: { maxParamLength: MAX_PARAMETER_LENGTH },
    frameworkErrors: (error, request, reply) => {
      setHeaders(request, reply);
      sendError(logger, error, request, reply);
    },
    clientErrorHandler: refuseMalformed,
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));
  app.addHook('onRequest', (request, reply, done) => {
    setHeaders(request, reply);
    const reads = request.method === 'GET' || request.method === 'HEAD';
    if (reads && isDoubled(request)) redirectToClean(request, reply);
    else done(hasEmptyParameter(request) ? noSuchRoute() : undefined);
  });
  app.addHook('onResponse', (request, reply, done) => {
    if (logger.isLevelEnabled('debug')) logger.debug(summary(request, reply), 'request');
    done();
  });
  app.setErrorHandler((error, request, reply) => sendError(logger, error, request, reply));
  app.setNotFoundHandler((request, reply) => sendError(logger, noSuchRoute(), request, reply));
  return app;
}

function summary(request: FastifyRequest, reply: FastifyReply): object {
  return {
    requestId: request.id,
    method: request.method,
    path: pathOf(request),
    status: reply.statusCode,
    ms: Math.round(reply.elapsedTime),
  };
}

function setHeaders(request: FastifyRequest, reply: FastifyReply): void {
  reply.headers({
    'x-neon-ret-request-id': request.id,
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'SAMEORIGIN',
    'referrer-policy': 'strict-origin-when-cross-origin',
    vary: 'Origin',
    // Answers hold passwords and keys.
    'cache-control': 'no-store',
  });
}

function sendError(logger: Logger, thrown: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const error = toAppError(thrown);
  const status = errorStatus(error);
  if (status === 500) {
    logger.error(
      { requestId: request.id, method: request.method, path: pathOf(request), err: thrown },
      'request failed',
    );
  }
  if (status === 429 || status === 503) reply.header('retry-after', '1');
  void reply.code(status).send(errorBody(error, request.id));
}

function answerGone(request: FastifyRequest, reply: FastifyReply): void {
  const error = { code: '', message: 'API v1 does not exist any more; use /api/v2' };
  void reply.code(410).send(errorBody(error, request.id));
}

/** Without the query, which may hold what does not belong into a log. */
function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0]!;
}

function isDoubled(request: FastifyRequest): boolean {
  return pathOf(request).includes('//');
}

/** As the vendor's server does: an empty path segment is a redirect to the path without it. */
function redirectToClean(request: FastifyRequest, reply: FastifyReply): void {
  const path = pathOf(request);
  void reply.redirect(path.replaceAll(/\/{2,}/g, '/') + request.url.slice(path.length), 301);
}

/** What is no HTTP at all never becomes a request: answer on the socket. */
function refuseMalformed(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) return void socket.destroy();
  const [status, reason] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'Request Header Fields Too Large']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'Request Timeout']
        : [400, 'Bad Request'];
  const body = JSON.stringify(
    errorBody({ code: '', message: 'invalid request: malformed HTTP request' }, requestId(undefined)),
  );
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  );
}

async function start(app: FastifyInstance, listen: string, port: number): Promise<{ host: string; port: number }> {
  try {
    await app.listen({ host: listen, port });
  } catch (error) {
    throw new AppError('unavailable', listenProblem(error, listen, port), { cause: error });
  }
  return { host: listen, port: (app.server.address() as AddressInfo).port };
}

async function close(app: FastifyInstance): Promise<void> {
  const cut = setTimeout(() => app.server.closeAllConnections(), CLOSE_TIMEOUT_MS);
  try {
    await app.close();
  } finally {
    clearTimeout(cut);
  }
}

function listenProblem(error: unknown, listen: string, port: number): string {
  switch ((error as NodeJS.ErrnoException).code) {
    case 'EADDRINUSE':
      return `the API cannot listen on ${listen}:${port}: another program has that port; choose another one with --api-port`;
    case 'EACCES':
      return `the API may not listen on ${listen}:${port}: choose a port above 1023 with --api-port`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `the API cannot listen on ${listen}:${port}: this machine has no such address; see --listen`;
    default:
      return `the API cannot listen on ${listen}:${port}: ${errorMessage(error)} (see --listen and --api-port)`;
  }
}
