/**
 * What a read of the API costs: processor time of the whole Ballast process per GET /projects/{id} and per GET of an
 * operation, beside a bare Fastify route that runs one named query, under the same kept-alive connections.
 */
import { spawn } from 'node:child_process';
import http from 'node:http';
import path from 'node:path';
import { cpuMs } from '../lib/machine.mjs';
import { computeOf, openSocketDirectory } from '../lib/product.mjs';

const ROUNDS = 4;
const REQUESTS = 4000;
const CONNECTIONS = 8;

export const needs = ['xfs'];

export async function* measure({ product }) {
  const created = await product.change('POST', '/projects', {
    project: { default_endpoint_settings: { suspend_timeout_seconds: -1 } },
  });
  const project = created.project.id;
  const { role, password, database } = created.connection_uris[0].connection_parameters;
  const compute = computeOf(product, { projectId: project, branchId: created.branch.id });
  const { body } = await get(agent(), `${product.baseUrl}/projects/${project}`, product.key);
  const bare = await startBareRoute(
    { host: openSocketDirectory(product, compute), port: 5432, user: role, password, database },
    body,
  );
  try {
    const routes = {
      'GET /projects/{id}': `/projects/${project}`,
      'GET operation': `/projects/${project}/operations/${created.operations[0].id}`,
    };
    for (const [name, route] of Object.entries(routes)) {
      const samples = [];
      const floor = [];
      for (let round = 0; round <= ROUNDS; round++) {
        const floorUs = await microsecondsPerRequest(bare.pid, `${bare.url}/one`, product.key);
        const us = await microsecondsPerRequest(product.pid, `${product.baseUrl}${route}`, product.key);
        // The first round warms both up.
        if (round === 0) continue;
        floor.push(floorUs);
        samples.push(us);
      }
      yield {
        name: `${name}: processor time per request`,
        unit: 'us',
        samples,
        floor: { name: 'bare Fastify route with one named query', samples: floor },
        bar: { atMost: 3, of: 'floor' },
      };
    }
  } finally {
    bare.stop();
  }
}

const agent = () => new http.Agent({ keepAlive: true, maxSockets: CONNECTIONS });

function get(keepAlive, url, key) {
  return new Promise((resolve, reject) => {
    const request = http.get(url, { agent: keepAlive, headers: { authorization: `Bearer ${key}` } }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (chunk) => (body += chunk));
      response.on('end', () => {
        if (response.statusCode === 200) resolve({ body });
        else reject(new Error(`${url} answered ${response.statusCode}`));
      });
    });
    request.on('error', reject);
  });
}

async function microsecondsPerRequest(pid, url, key) {
  const keepAlive = agent();
  let left = REQUESTS;
  const before = cpuMs(pid);
  const worker = async () => {
    while (left-- > 0) await get(keepAlive, url, key);
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, worker));
  const us = ((cpuMs(pid) - before) * 1000) / REQUESTS;
  keepAlive.destroy();
  return us;
}

async function startBareRoute(connection, body) {
  const child = spawn(process.execPath, [path.join(import.meta.dirname, '../lib/bare-route.mjs')], {
    env: { PATH: process.env.PATH, BARE_ROUTE: JSON.stringify({ connection, body }), UV_THREADPOOL_SIZE: '16' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const port = await new Promise((resolve, reject) => {
    child.stdout.once('data', (chunk) => resolve(Number(chunk)));
    child.once('exit', (code) => reject(new Error(`the bare route ended with ${code}`)));
  });
  return { pid: child.pid, url: `http://127.0.0.1:${port}`, stop: () => child.kill('SIGTERM') };
}
