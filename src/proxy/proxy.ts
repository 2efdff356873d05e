/**
 * The Postgres edge: a listener that turns connections into sessions at computes, and what all of them share.
 *
 * It knows Ballast by ProxyAccess alone. What a connection goes through is in session.ts.
 */
import { createHash } from 'node:crypto';
import net from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import type { ProxyAccess } from '../control-plane/proxy-access.types.ts';
import { AppError } from '../lib/errors.ts';
import { listenOnTwin, type LoopbackTwin } from '../lib/loopback-twin.ts';
import type { Logger } from '../lib/log.ts';
import { createPasswordChecker } from '../postgres/wire/password-checker.ts';
import type { PasswordChecker } from '../postgres/wire/password-checker.ts';
import { createCancelKeys } from './cancel.ts';
import type { CancelKeys } from './cancel.ts';
import { takeAccepted } from './chunk-socket.ts';
import type { Certificates } from './certificates.ts';
import { createConnections } from './connections.ts';
import type { Connections } from './connections.ts';
import { createCounts } from './counts.ts';
import type { Counts, ProxyStats } from './counts.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import type { ProxyLimits } from './limits.ts';
import { createCrowd } from './crowd.ts';
import type { Crowd } from './crowd.ts';
import { createIdentities } from './identities.ts';
import { createLoginFailures } from './login-failures.ts';
import type { LoginFailures } from './login-failures.ts';
import { noObserver } from './observer.ts';
import type { ProxyObserver } from './observer.ts';
import { createPooler } from './pooler/pooler.ts';
import type { Pooler, PoolerStats } from './pooler/pooler.ts';
import type { Identity } from './opening.ts';
import { createRoleChanges } from './role-changes.ts';
import type { RoleChanges } from './role-changes.ts';
import { createHttpEdge } from './serverless/http-edge.ts';
import type { HttpEdge } from './serverless/http-edge.ts';
import { serveClient } from './session.ts';

export interface ProxyOptions {
  access: ProxyAccess;
  tls: Certificates;
  /** Endpoints are `<endpoint id>.<domain>`. */
  domain: string;
  logger: Logger;
  limits?: Partial<ProxyLimits>;
  /** Milliseconds that only ever grow. */
  clock?: () => number;
  /** False: clients on the loopback interface may connect without TLS. */
  requireTls: boolean;
  /** Every connection begins with a PROXY protocol header. Default: false. */
  proxyProtocol?: boolean;
  /** Shared with those who ask who is connected. */
  connections?: Connections;
  observer?: ProxyObserver;
  /** A notice to every client that has logged in; the id of its connection is put behind it. */
  greeting?: string | undefined;
}

export interface Proxy {
  /** SQL over HTTP and WebSockets, for servers on other ports. */
  readonly http: Pick<HttpEdge, 'request' | 'upgrade' | 'stats'>;
  /** Rejects with AppError 'unavailable' naming --pg-port when the port is taken. Port 0 takes a free one. */
  listen(host: string, port: number): Promise<void>;
  /** The port that it listens on; 0 before. */
  readonly port: number;
  /** Takes a renewed certificate for connections from now on. */
  useCertificates(tls: Certificates): void;
  /** Stops listening, waits for sessions to end, and breaks those that are left after `graceMs`. */
  close(graceMs: number): Promise<void>;
  stats(): ProxyStats & { pooler: PoolerStats };
}

/** What every session is given. */
export interface ProxyContext {
  access: ProxyAccess;
  /** The certificate for a TLS server name. */
  identify: (serverName: string | undefined) => Promise<Identity>;
  domain: string;
  logger: Logger;
  limits: ProxyLimits;
  requireTls: boolean;
  proxyProtocol: boolean;
  mockSecret: Buffer;
  passwords: PasswordChecker;
  cancelKeys: CancelKeys;
  counts: Counts;
  connections: Connections;
  observer: ProxyObserver;
  greeting: string | undefined;
  crowd: Crowd;
  loginFailures: LoginFailures;
  roleChanges: RoleChanges;
  pooler: Pooler;
  /** Milliseconds that only ever grow. */
  nowMs: () => number;
}

const KEEPALIVE_DELAY_MS = 60_000;
const LISTEN_BACKLOG = 1024;

export function createProxy(options: ProxyOptions): Proxy {
  const nowMs = options.clock ?? (() => performance.now());
  const limits = { ...DEFAULT_LIMITS, ...options.limits };
  const counts = createCounts(limits, options.access);
  const domain = options.domain.toLowerCase();
  let identities = createIdentities(options.tls, domain);
  const shared = {
    access: options.access,
    logger: options.logger,
    limits,
    cancelKeys: createCancelKeys(),
    counts,
    connections: options.connections ?? createConnections(),
    observer: options.observer ?? noObserver,
    roleChanges: createRoleChanges(nowMs, (endpoint) => counts.of(endpoint)),
  };
  const context: ProxyContext = {
    ...shared,
    pooler: createPooler({ ...shared, nowMs }),
    identify: (serverName) => identities(serverName),
    domain,
    nowMs,
    greeting: options.greeting,
    requireTls: options.requireTls,
    proxyProtocol: options.proxyProtocol ?? false,
    // From the key, so that the salts of roles that do not exist survive a restart as those of real ones do.
    mockSecret: createHash('sha256').update('mock verifiers').update(options.tls.key).digest(),
    passwords: createPasswordChecker(),
    crowd: createCrowd(limits),
    loginFailures: createLoginFailures(limits, nowMs),
  };
  const http = createHttpEdge(context);
  const sockets = new Set<Socket>();
  const sessions = new Set<Promise<void>>();
  let twin: LoopbackTwin | undefined;
  const server = net.createServer(
    { pauseOnConnect: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_DELAY_MS },
    (accepted) => {
      const socket = takeAccepted(accepted);
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      const session = serveClient(context, socket, (connection) => http.connection(connection)).finally(() =>
        sessions.delete(session),
      );
      sessions.add(session);
    },
  );

  return {
    http,
    async listen(host, port) {
      await listen(server, host, port);
      twin = await listenOnTwin(server, host, this.port, () =>
        context.logger.warn({ port: this.port }, 'another program has this port of ::1; see --pg-port'),
      );
    },
    get port() {
      return (server.address() as AddressInfo | null)?.port ?? 0;
    },
    useCertificates(renewed) {
      identities = createIdentities(renewed, domain);
    },
    async close(graceMs) {
      twin?.close();
      const httpClosed = http.close(graceMs);
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      const pooledAway = context.pooler.close(graceMs);
      const timer = setTimeout(() => {
        for (const socket of sockets) socket.destroy();
      }, graceMs);
      await closed;
      await Promise.all([...sessions, httpClosed]);
      await pooledAway;
      clearTimeout(timer);
    },
    stats: () => ({
      ...context.counts.stats(),
      cancelKeys: context.cancelKeys.size(),
      pooler: context.pooler.stats(),
    }),
  };
}

function listen(server: net.Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException) => {
      const why = error.code === 'EADDRINUSE' ? 'is already in use' : `cannot be used (${error.code})`;
      const message = `port ${port} on ${host} ${why}: choose another with --pg-port`;
      reject(new AppError('unavailable', message, { cause: error }));
    };
    server.once('error', onError);
    server.listen({ host, port, backlog: LISTEN_BACKLOG }, () => {
      server.off('error', onError);
      resolve();
    });
  });
}
