/**
 * Doctor's checks of the machine: Node, platform, Postgres majors, host names, ports, limits.
 */
import { lookup } from 'node:dns/promises';
import { readFile } from 'node:fs/promises';
import net from 'node:net';
import { MAJORS } from '../postgres/installations.ts';
import type { DoctorContext, Finding } from './finding.ts';
import { availableMajors } from './postgres.ts';

const MINIMUM_NODE = [20, 19] as const;
/** Each connection through the proxy takes two. */
const ENOUGH_OPEN_FILES = 8192;
const LOOKUP_TIMEOUT_MS = 3000;

export async function checkNode(): Promise<Finding[]> {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const enough = major > MINIMUM_NODE[0] || (major === MINIMUM_NODE[0] && minor >= MINIMUM_NODE[1]);
  const text = `Node ${process.versions.node}`;
  if (enough) return [{ name: 'node', level: 'ok', text }];
  return [
    { name: 'node', level: 'fail', text: `${text} is too old; ${MINIMUM_NODE.join('.')} is the oldest that works` },
  ];
}

export async function checkPlatform(): Promise<Finding[]> {
  const text = `${process.platform}-${process.arch}`;
  const bundled = ['linux-x64', 'linux-arm64', 'darwin-x64', 'darwin-arm64'].includes(text);
  if (bundled) return [{ name: 'platform', level: 'ok', text }];
  return [{ name: 'platform', level: 'warn', text: `${text} has no bundled Postgres; the system's own are used` }];
}

export async function checkPostgres({ config }: DoctorContext): Promise<Finding[]> {
  const available = await availableMajors(config);
  const have = available.map(({ major, version, source }) => `${major} (${version}, ${source})`).join(', ');
  const missing = MAJORS.filter((major) => !available.some((found) => found.major === major));
  const fix = `ballast postgres install ${missing.join(' ')}`;
  if (!available.some(({ major }) => major === 17)) {
    const text = `no Postgres 17, which is the default of new projects; at hand: ${have || 'none'}`;
    return [{ name: 'postgres', level: 'fail', text, fix: 'ballast postgres install 17' }];
  }
  if (missing.length === 0) return [{ name: 'postgres', level: 'ok', text: have }];
  return [{ name: 'postgres', level: 'ok', text: `${have}; not at hand: ${missing.join(', ')}`, fix }];
}

export async function checkNames({ config }: DoctorContext): Promise<Finding[]> {
  const host = `ep-doctor-check-00000000.${config.domain}`;
  const address = await addressOf(host);
  if (address !== undefined) return [{ name: 'host names', level: 'ok', text: `*.${config.domain} is ${address}` }];
  if (config.domain === 'localhost') {
    return [
      {
        name: 'host names',
        level: 'warn',
        text: '*.localhost does not resolve; connection URIs carry the endpoint as an option instead of the host',
        fix: 'apt-get install libnss-myhostname   (or dnf install nss-myhostname; then start Ballast again)',
      },
    ];
  }
  const text = `*.${config.domain} does not resolve on this machine`;
  return [{ name: 'host names', level: 'fail', text, fix: `add a DNS record: *.${config.domain} -> this machine` }];
}

async function addressOf(host: string): Promise<string | undefined> {
  const late = new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), LOOKUP_TIMEOUT_MS).unref());
  const found = lookup(host).then(
    ({ address }) => address,
    () => undefined,
  );
  return Promise.race([found, late]);
}

export async function checkPorts({ config, running }: DoctorContext): Promise<Finding[]> {
  if (running !== undefined) {
    const api = await answers(`${new URL(running.apiUrl).origin}/healthz`);
    const proxy = await accepts(running.pgPort, config.listen);
    return [
      {
        name: 'port of the API',
        level: api ? 'ok' : 'fail',
        text: `${running.apiUrl} ${api ? 'answers' : 'is silent'}`,
      },
      {
        name: 'port of Postgres',
        level: proxy ? 'ok' : 'fail',
        text: `${running.pgHost}:${running.pgPort} ${proxy ? 'accepts' : 'refuses'} connections`,
      },
    ];
  }
  return [
    await checkPort('port of the API', config.listen, config.apiPort, '--api-port'),
    await checkPort('port of Postgres', config.listen, config.pgPort, '--pg-port'),
  ];
}

async function checkPort(name: string, listen: string, port: number, flag: string): Promise<Finding> {
  const problem = await listenProblem(listen, port);
  if (problem === undefined) return { name, level: 'ok', text: `${listen}:${port} is free` };
  if (problem === 'EADDRINUSE') {
    const fix = `ballast start ${flag} ${port + 1}   (\`ss -ltnp sport = :${port}\` says who has it)`;
    return { name, level: 'fail', text: `${listen}:${port} is taken by another program`, fix };
  }
  if (problem === 'EACCES') {
    return { name, level: 'fail', text: `${port} is for root only`, fix: `ballast start ${flag} ${port + 10_000}` };
  }
  return {
    name,
    level: 'fail',
    text: `cannot listen on ${listen}:${port}: ${problem}`,
    fix: 'ballast start --listen 127.0.0.1',
  };
}

/** Undefined when one could listen there, else the error's code. */
function listenProblem(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(undefined)));
  });
}

async function answers(url: string): Promise<boolean> {
  return fetch(url, { signal: AbortSignal.timeout(LOOKUP_TIMEOUT_MS) }).then(
    (response) => response.ok,
    () => false,
  );
}

function accepts(port: number, listen: string): Promise<boolean> {
  const host = ['0.0.0.0', '::'].includes(listen) ? 'localhost' : listen;
  return new Promise((resolve) => {
    const socket = net.connect({ host, port, timeout: LOOKUP_TIMEOUT_MS });
    const done = (result: boolean) => {
      socket.destroy();
      resolve(result);
    };
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
    socket.once('timeout', () => done(false));
  });
}

export async function checkDescriptors(): Promise<Finding[]> {
  const limits = await readFile('/proc/self/limits', 'utf8').catch(() => undefined);
  const match = limits === undefined ? null : /^Max open files\s+(\S+)/m.exec(limits);
  if (!match) return [];
  const limit = match[1] === 'unlimited' ? Infinity : Number(match[1]);
  const text = `${match[1]!} files may be open`;
  if (limit >= ENOUGH_OPEN_FILES) return [{ name: 'open files', level: 'ok', text }];
  const fix = `ulimit -n ${ENOUGH_OPEN_FILES}`;
  return [{ name: 'open files', level: 'warn', text: `only ${text}; each connection takes two`, fix }];
}
