/**
 * A proxy whose control plane is a table in the test: endpoints, verifiers, and how waking goes. It records what was
 * woken, so that tests can show that something was not.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import type { Socket } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import tls from 'node:tls';
import type {
  EndpointChoice,
  ProxyAccess,
  ProxyEndpoint,
  SocketAddress,
} from '../../src/control-plane/proxy-access.types.ts';
import { silentLogger } from '../../src/lib/log.ts';
import { loadCertificates } from '../../src/proxy/certificates.ts';
import type { Certificates } from '../../src/proxy/certificates.ts';
import type { ProxyLimits } from '../../src/proxy/limits.ts';
import { createProxy } from '../../src/proxy/proxy.ts';
import type { Proxy } from '../../src/proxy/proxy.ts';

export interface TestProxy {
  proxy: Proxy;
  tls: Certificates;
  endpoints: Map<string, ProxyEndpoint>;
  /** By role, on every endpoint. */
  verifiers: Map<string, string>;
  /** Endpoint ids, one per call of wake. */
  wakes: string[];
  /** What was asked for, one per lookup. */
  choices: ({ id: string } & EndpointChoice)[];
  /** Latest number of open connections, by endpoint id. */
  open: Map<string, number>;
  close(): Promise<void>;
}

export interface TestProxyOptions {
  /** The Unix socket to connect to, or what wake does. */
  wake: string | ProxyAccess['wake'];
  refreshVerifiers?: ProxyAccess['refreshVerifiers'];
  limits?: Partial<ProxyLimits>;
  domain?: string;
  requireTls?: boolean;
  listen?: string;
  proxyProtocol?: boolean;
}

export const endpointNamed = (endpointId: string, change: Partial<ProxyEndpoint> = {}): ProxyEndpoint => ({
  endpointId,
  projectId: 'quiet-river-12345678',
  branchId: 'br-quiet-river-12345678',
  disabled: false,
  allowedIps: [],
  blockPublicConnections: false,
  maxConnections: 104,
  ...change,
});

/** Listens on a free port of the loopback interface. Knows the endpoint `ep-test`. */
export async function startTestProxy(options: TestProxyOptions): Promise<TestProxy> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'ballast-proxy-'));
  const domain = options.domain ?? 'localhost';
  const certificates = await loadCertificates({
    home: { tls: directory },
    config: { domain, tlsCert: undefined, tlsKey: undefined },
  });
  const endpoints = new Map([['ep-test', endpointNamed('ep-test')]]);
  const verifiers = new Map<string, string>();
  const wakes: string[] = [];
  const choices: TestProxy['choices'] = [];
  const open = new Map<string, number>();
  const wake: ProxyAccess['wake'] =
    typeof options.wake === 'string' ? async () => ({ path: options.wake as string }) : options.wake;
  const proxy = createProxy({
    tls: certificates,
    domain,
    logger: silentLogger(),
    requireTls: options.requireTls ?? false,
    proxyProtocol: options.proxyProtocol ?? false,
    ...(options.limits && { limits: options.limits }),
    access: {
      endpoint: async (id, choice) => {
        choices.push({ id, ...choice });
        const found = endpoints.get(id);
        return found && choice?.point ? { ...found, point: choice.point } : found;
      },
      verifier: async (_endpoint, role) => verifiers.get(role),
      refreshVerifiers: options.refreshVerifiers ?? (async () => false),
      wake: async (endpoint, how): Promise<SocketAddress> => {
        wakes.push(endpoint.endpointId);
        return wake(endpoint, how);
      },
      noteConnections: ({ endpointId }, count) => void open.set(endpointId, count),
    },
  });
  await proxy.listen(options.listen ?? '127.0.0.1', 0);
  return {
    proxy,
    tls: certificates,
    endpoints,
    verifiers,
    wakes,
    choices,
    open,
    close: async () => {
      await proxy.close(0);
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** A plain connection that collects what it is sent. */
export interface RawClient {
  socket: Socket;
  received: () => Buffer;
  /** Resolves when the other side has closed. */
  closed: Promise<void>;
}

export function rawClient(port: number, host = '127.0.0.1'): Promise<RawClient> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port, host }, () => resolve(collect(socket)));
    socket.once('error', reject);
  });
}

export function tlsClient(
  port: number,
  options: tls.ConnectionOptions,
): Promise<RawClient & { socket: tls.TLSSocket }> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options }, () =>
      resolve({ ...collect(socket), socket }),
    );
    socket.once('error', reject);
  });
}

function collect(socket: Socket): RawClient {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  socket.on('error', () => undefined);
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  return { socket, received: () => Buffer.concat(chunks), closed };
}
