/**
 * The figures of `GET /metrics`. Counts that change with every message are plain integers elsewhere, and are read when
 * somebody asks; what happens seldom is told as it happens.
 *
 * Labels never name roles, databases, addresses or queries. The series of an endpoint go when it is deleted, and when no
 * client has used it for an hour; what comes later counts from zero.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { OperationEnd } from './operations/types.ts';
import { CONNECTION_KINDS, type Connections, type Traffic } from './proxy/connections.ts';
import type { ProxyObserver } from './proxy/observer.ts';
import type { Proxy } from './proxy/proxy.ts';

export interface MetricsOptions {
  connections: Connections;
  runningComputes(): number;
  /** Compute units that each running compute has now. */
  computeSizes(): ReadonlyMap<string, number>;
  /** Those of the endpoints that are there and not deleted. Rejects while the catalog is away. */
  existing(endpointIds: readonly string[]): Promise<readonly string[]>;
  nowMs?: () => number;
}

export interface Metrics {
  readonly proxyObserver: ProxyObserver;
  operationEnded(end: OperationEnd): void;
  /** From here on the proxy's figures are part of it. */
  watchProxy(proxy: Pick<Proxy, 'stats' | 'http'>): void;
  readonly contentType: string;
  /** In the text format of Prometheus. */
  read(): Promise<string>;
}

const FORGET_AFTER_MS = 3_600_000;
const FAST_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120];
const SLOW_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 1800];
const TRAFFIC: readonly [keyof Traffic, string, string][] = [
  ['bytesIn', 'received_bytes', 'Bytes from clients, behind their logins'],
  ['bytesOut', 'sent_bytes', 'Bytes to clients, behind their logins'],
  ['queries', 'queries', 'Queries of pooled clients and over HTTP; those of direct connections are not counted'],
  ['lends', 'pool_lends', 'Times that a pool lent a server connection to a client: transactions, mostly'],
];

export function createMetrics(options: MetricsOptions): Metrics {
  const register = new Registry();
  const events = registerEvents(register);
  registerTraffic(register, options);
  new Gauge({
    name: 'ballast_computes_running',
    help: 'Computes that run, those of the past included',
    registers: [register],
    collect() {
      this.set(options.runningComputes());
    },
  });
  new Gauge({
    name: 'ballast_compute_units',
    help: 'Size that the running compute of an endpoint has now; without limits of its size, the largest that it may have',
    labelNames: ['endpoint'],
    registers: [register],
    collect() {
      this.reset();
      for (const [endpoint, cu] of options.computeSizes()) {
        if (endpoint.startsWith('ep-')) this.set({ endpoint }, cu);
      }
    },
  });
  // Of this process alone: every Postgres is one of its own.
  collectDefaultMetrics({ register });
  return {
    ...events,
    watchProxy: (proxy) => registerProxy(register, proxy),
    contentType: register.contentType,
    read: async () => {
      await forgetUnused(options);
      return register.metrics();
    },
  };
}

function registerEvents(register: Registry): Pick<Metrics, 'proxyObserver' | 'operationEnded'> {
  const registers = [register];
  const refused = new Counter({
    name: 'ballast_connections_refused_total',
    help: 'Connections and queries over HTTP that were turned away, or went away before they had entered',
    labelNames: ['reason'],
    registers,
  });
  const histogram = <Label extends string = never>(
    name: string,
    help: string,
    buckets: readonly number[],
    labelNames: readonly Label[] = [],
  ) => new Histogram<Label>({ name: `ballast_${name}_seconds`, help, buckets: [...buckets], labelNames, registers });
  const poolWait = histogram(
    'pool_wait',
    'Waits for a server connection of a pool; those that waited only',
    FAST_BUCKETS,
  );
  const login = histogram('compute_login', "The proxy's logins at computes", FAST_BUCKETS);
  const wait = histogram('wake_wait', 'What a client waited for a compute that had to be started', SLOW_BUCKETS);
  const phase = histogram(
    'wake_phase',
    'Starts of computes: queue and claim of the operation, prepare, postgres (until it takes sessions), configure, login',
    FAST_BUCKETS,
    ['phase'],
  );
  const operation = histogram('operation', 'The last try of operations, from its claim', SLOW_BUCKETS, ['action']);
  const operations = new Counter({
    name: 'ballast_operations_total',
    help: 'Operations that ended',
    labelNames: ['action', 'result'],
    registers,
  });
  return {
    proxyObserver: {
      refused: (reason) => refused.inc({ reason: snakeCase(reason) }),
      poolWaited: (ms) => poolWait.observe(ms / 1000),
      loggedIn: (ms, woken) => {
        login.observe(ms / 1000);
        if (woken) phase.observe({ phase: 'login' }, ms / 1000);
      },
      wakeWaited: (ms) => wait.observe(ms / 1000),
    },
    operationEnded: ({ action, status, durationMs, phases }) => {
      operations.inc({ action, result: status });
      operation.observe({ action }, durationMs / 1000);
      for (const [name, ms] of Object.entries(phases)) phase.observe({ phase: name }, ms / 1000);
    },
  };
}

function registerTraffic(register: Registry, { connections }: MetricsOptions): void {
  const registers = [register];
  for (const [figure, name, help] of TRAFFIC) {
    new Counter({
      name: `ballast_${name}_total`,
      help,
      labelNames: ['endpoint'],
      registers,
      collect() {
        this.reset();
        for (const [endpoint, traffic] of connections.traffic()) this.inc({ endpoint }, traffic[figure]);
      },
    });
  }
  new Gauge({
    name: 'ballast_connections',
    help: 'Clients that are connected, and queries over HTTP that run',
    labelNames: ['endpoint', 'kind'],
    registers,
    collect() {
      this.reset();
      for (const [endpoint, { open }] of connections.traffic()) {
        for (const kind of CONNECTION_KINDS) this.set({ endpoint, kind }, open[kind]);
      }
    },
  });
  new Counter({
    name: 'ballast_connections_entered_total',
    help: 'Connections, and queries over HTTP, whose login was right',
    labelNames: ['kind'],
    registers,
    collect() {
      this.reset();
      for (const kind of CONNECTION_KINDS) this.inc({ kind }, connections.entered[kind]);
    },
  });
}

type ProxyFigures = ReturnType<Proxy['stats']> & { http: ReturnType<Proxy['http']['stats']> };

function registerProxy(register: Registry, proxy: Pick<Proxy, 'stats' | 'http'>): void {
  const figures = (): ProxyFigures => ({ ...proxy.stats(), http: proxy.http.stats() });
  const counters: [string, string, (of: ProxyFigures) => number][] = [
    ['connections_accepted_total', 'Connections and queries over HTTP that came in', ({ accepted }) => accepted],
    ['login_failures_total', 'Logins with a wrong password or an unknown role', ({ loginFailures }) => loginFailures],
  ];
  const gauges: [string, string, (of: ProxyFigures) => number][] = [
    ['connections_unauthenticated', 'Connections that have not logged in yet', (of) => of.unauthenticated],
    ['pools', 'Pools: one for each role in a database of an endpoint', (of) => of.pooler.pools],
    ['pool_clients', 'Clients of pooled hosts', (of) => of.pooler.clients],
    ['pool_clients_waiting', 'Of those, how many wait for a server connection', (of) => of.pooler.waiting],
    ['pool_servers', 'Connections of pools to computes', (of) => of.pooler.servers],
    ['pool_servers_idle', 'Of those, how many are lent to nobody', (of) => of.pooler.idle],
    ['sql_pool_servers', 'Connections to computes that SQL over HTTP keeps', (of) => of.http.pooled],
    ['sql_pool_servers_idle', 'Of those, how many serve nobody', (of) => of.http.pooledIdle],
  ];
  const registers = [register];
  for (const [name, help, read] of counters) {
    new Counter({
      name: `ballast_${name}`,
      help,
      registers,
      collect() {
        this.reset();
        this.inc(read(figures()));
      },
    });
  }
  for (const [name, help, read] of gauges) {
    new Gauge({
      name: `ballast_${name}`,
      help,
      registers,
      collect() {
        this.set(read(figures()));
      },
    });
  }
}

async function forgetUnused({ connections, existing, nowMs = () => performance.now() }: MetricsOptions): Promise<void> {
  const unused = [...connections.traffic()].filter(([, { open }]) => Object.values(open).every((count) => count === 0));
  if (unused.length === 0) return;
  const longAgo = unused.filter(([, { lastUsedMs }]) => nowMs() - lastUsedMs >= FORGET_AFTER_MS);
  for (const [endpointId] of longAgo) connections.forget(endpointId);
  // A connection to the past goes by its branch, which is no endpoint; those go when they have not been used.
  const endpoints = unused.map(([endpointId]) => endpointId).filter((endpointId) => !endpointId.startsWith('br-'));
  const there = await existing(endpoints).catch(() => endpoints);
  const present = new Set(there);
  for (const endpointId of endpoints) if (!present.has(endpointId)) connections.forget(endpointId);
}

const snakeCase = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
