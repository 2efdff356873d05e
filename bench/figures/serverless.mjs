/**
 * One warm query over HTTP, by @neondatabase/serverless and by a bare HTTP client, beside the same query through `pg`; and
 * TLS at the Postgres port: handshakes alone, and whole connections with login and a query, beside PgBouncer with the
 * same certificate and the same client.
 */
import http from 'node:http';
import net from 'node:net';
import tls from 'node:tls';
import { neon, neonConfig } from '@neondatabase/serverless';
import pg from 'pg';
import { cpuMs } from '../lib/machine.mjs';
import { connectOnly, hasBouncer, hasPgbench, pgbench, startBouncer } from '../lib/pgbench.mjs';
import { computeOf, openSocketDirectory } from '../lib/product.mjs';
import { timed } from '../lib/stats.mjs';

const ROUNDS = 8;
const QUERIES = 250;
/** V8 is done with a path of code after some thousand runs of it. */
const WARM_QUERIES = 4_000;
const HANDSHAKES = 400;
const HANDSHAKES_AT_ONCE = 8;
const CONNECTIONS = 300;
const TEXT = 'select $1::int as n, $2::text as t';
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);

export const needs = ['xfs'];

export async function* measure({ product, pool, subset, skip, quick }) {
  const place = await product.createProject({
    name: 'serverless',
    default_endpoint_settings: { suspend_timeout_seconds: -1 },
  });
  const rounds = quick ? 2 : ROUNDS;
  if (subset('sql')) yield* sqlOverHttp(product, place, rounds);
  if (subset('tls')) yield* tlsAtThePort(product, pool, place, rounds, skip);
}

async function* sqlOverHttp(product, place, rounds) {
  const url = `http://localhost:${product.pgPort}/sql`;
  const uri = `postgresql://${place.role}:${place.password}@${place.endpointId}.localhost/${place.database}`;
  neonConfig.fetchEndpoint = () => url;
  const sql = neon(uri);
  const bare = bareClient(url, uri);
  const session = new pg.Client({ connectionString: place.uri });
  await session.connect();
  const ways = {
    pg: (n) => session.query(TEXT, [n, 'text']),
    bare: (n) => bare.query(TEXT, [n, 'text']),
    neon: (n) => sql.query(TEXT, [n, 'text']),
  };
  const samples = { pg: [], bare: [], neon: [] };
  const cpuUs = { pg: [], bare: [], neon: [] };
  // The first round warms up.
  for (let round = 0; round <= rounds; round++) {
    for (const [way, ask] of Object.entries(ways)) {
      const before = cpuMs(product.pid);
      for (let n = 0; n < (round === 0 ? WARM_QUERIES : QUERIES); n++) {
        const ms = await timed(() => ask(n));
        if (round > 0) samples[way].push(ms * 1000);
      }
      if (round > 0) cpuUs[way].push(((cpuMs(product.pid) - before) * 1000) / QUERIES);
    }
  }
  await session.end();
  bare.close();
  const floor = { name: 'the same query through pg', samples: samples.pg };
  const bar = { atMost: 2, of: 'floor' };
  yield { name: 'POST /sql, warm, bare HTTP client', unit: 'us', samples: samples.bare, floor, bar };
  yield { name: "POST /sql, warm, the driver's neon()", unit: 'us', samples: samples.neon, floor, bar };
  yield {
    name: 'POST /sql, warm: processor time per query',
    unit: 'us',
    samples: [...cpuUs.bare, ...cpuUs.neon],
    floor: { name: 'through pg', samples: cpuUs.pg },
  };
}

/** One kept-alive connection. */
function bareClient(url, uri) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const headers = { 'content-type': 'application/json', 'neon-connection-string': uri };
  return {
    close: () => agent.destroy(),
    query: (query, params) =>
      new Promise((resolve, reject) => {
        const body = JSON.stringify({ query, params });
        const length = { 'content-length': Buffer.byteLength(body) };
        const request = http.request(url, { method: 'POST', agent, headers: { ...headers, ...length } }, (response) => {
          let text = '';
          response.setEncoding('utf8');
          response.on('data', (chunk) => (text += chunk));
          response.on('end', () => {
            if (response.statusCode === 200) resolve(JSON.parse(text));
            else reject(new Error(`POST /sql answered ${response.statusCode}: ${text}`));
          });
        });
        request.on('error', reject);
        request.end(body);
      }),
  };
}

async function* tlsAtThePort(product, pool, place, rounds, skip) {
  const compute = computeOf(product, place);
  const socketDirectory = openSocketDirectory(product, compute);
  if (!hasPgbench) {
    skip('serverless: pgbench is not installed');
    return;
  }
  await pgbench(place, { PGHOST: socketDirectory, PGPORT: '5432' }, ['-i', '-q']);
  if (!hasBouncer) skip('serverless: PgBouncer is not installed; TLS stands alone');
  const bouncer =
    hasBouncer && hasPgbench ? await startBouncer({ product, pool, compute, socketDirectory, place }) : undefined;
  try {
    const ours = { pid: product.pid, port: product.pgPort };
    const servers = bouncer === undefined ? { ours } : { ours, bouncer: { pid: bouncer.pid, port: bouncer.port } };
    const runs = await inTurns(servers, rounds, handshakes);
    yield* beside('TLS handshakes', runs, 'PgBouncer');
    const env = (endpoint) => ({
      PGHOST: '127.0.0.1',
      PGPORT: String(product.pgPort),
      PGOPTIONS: `endpoint=${endpoint}`,
      PGSSLMODE: 'require',
    });
    const pooled = { pid: product.pid, env: env(`${place.endpointId}-pooler`) };
    const direct = { pid: product.pid, env: env(place.endpointId) };
    const transaction = bouncer && { pid: bouncer.pid, env: { ...bouncer.transaction, PGSSLMODE: 'require' } };
    const connect = (way) => connectOnly(place, way, { clients: 4, connections: CONNECTIONS });
    const connected = await inTurns(
      transaction ? { ours: pooled, bouncer: transaction } : { ours: pooled },
      rounds,
      connect,
    );
    yield* beside('TLS connections with login and one query, pooled host', connected, 'PgBouncer, transaction pooling');
    const { ours: own } = await inTurns({ ours: direct }, rounds, connect);
    yield* beside('TLS connections with login, a Postgres of their own and one query, direct host', { ours: own });
  } finally {
    await bouncer?.stop();
  }
}

async function inTurns(ways, rounds, measureOne) {
  const runs = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    for (const [name, way] of Object.entries(ways)) {
      const run = await measureOne(way);
      if (round > 0) runs[name].push(run);
    }
  }
  return runs;
}

function* beside(name, { ours, bouncer }, peer) {
  const figure = (what) => ({
    samples: ours.map((run) => run[what]),
    ...(bouncer && { floor: { name: peer, samples: bouncer.map((run) => run[what]) } }),
  });
  yield { name: `${name}: per second`, unit: '/s', ...figure('perSecond') };
  yield { name: `${name}: processor time of each`, unit: 'us', ...figure('cpuUs') };
}

/** SSLRequest and a full handshake, then away. */
async function handshakes({ pid, port }) {
  let left = HANDSHAKES;
  const before = cpuMs(pid);
  const worker = async () => {
    while (left-- > 0) await handshake(port);
  };
  const ms = await timed(() => Promise.all(Array.from({ length: HANDSHAKES_AT_ONCE }, worker)));
  return { perSecond: (HANDSHAKES * 1000) / ms, cpuUs: ((cpuMs(pid) - before) * 1000) / HANDSHAKES };
}

function handshake(port) {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1' });
    socket.on('error', reject);
    socket.write(SSL_REQUEST);
    socket.once('data', (answer) => {
      if (answer.toString('latin1') !== 'S') {
        reject(new Error(`TLS was refused: ${answer.toString('latin1')}`));
        return;
      }
      const secure = tls.connect({ socket, rejectUnauthorized: false }, () => {
        secure.destroy();
        resolve();
      });
      secure.on('error', reject);
    });
  });
}
