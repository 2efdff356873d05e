/** @neondatabase/serverless: Client over WebSocket. On plain Postgres through a bridge that only carries bytes. */
import { Client, neonConfig, type QueryResult } from '@neondatabase/serverless';
import { WebSocket } from 'ws';
import { startupOptions, type Target } from '../paths.ts';
import { type Driver, type Heard, type OpenOptions, type Session } from '../session.ts';
import { startBridge, type Bridge } from '../websocket-bridge.ts';

const LOOPBACK = { address: '127.0.0.1', family: 4 };

/** Names below localhost do not resolve on every machine; which host is meant must reach the server all the same. */
class LocalWebSocket extends WebSocket {
  constructor(url: string) {
    super(url, { lookup: (_host, { all }, done) => (all ? done(null, [LOOPBACK]) : done(null, '127.0.0.1', 4)) });
  }
}

let bridge: Promise<Bridge> | undefined;

export const websocketDriver: Driver = {
  name: 'serverless over WebSocket',
  paths: ['websocket'],
  can: () => ['script', 'prepared', 'listen', 'notices', 'destroy'],
  open,
  stop: closeBridge,
};

export async function closeBridge(): Promise<void> {
  await (await bridge)?.close();
}

/** Sets the driver's global settings: its pool and the query builders have no others. */
export async function pointWebSockets(target: Target, config = neonConfig): Promise<void> {
  config.webSocketConstructor = LocalWebSocket;
  config.useSecureWebSocket = false;
  if (target.path === 'plain') {
    bridge ??= startBridge(target.port, target.host);
    const { address } = await bridge;
    config.wsProxy = () => address;
    // Plain Postgres asks for SCRAM; the driver guesses a cleartext password otherwise.
    config.pipelineConnect = false;
  } else {
    config.wsProxy = target.wsProxy!;
    config.pipelineConnect = 'password';
  }
}

export function websocketConfig(target: Target, options: OpenOptions = {}) {
  const startup = startupOptions(target, options.settings);
  return {
    host: target.host,
    user: target.user,
    password: options.password ?? target.password,
    database: options.database ?? target.database,
    ...(startup !== undefined && { options: startup }),
    ...(options.applicationName !== undefined && { application_name: options.applicationName }),
  };
}

async function open(target: Target, options: OpenOptions = {}): Promise<Session> {
  await pointWebSockets(target);
  const client = new Client(websocketConfig(target, options));
  client.on('error', () => {});
  const sockets: WebSocket[] = [];
  client.neonConfig.webSocketConstructor = class extends LocalWebSocket {
    constructor(url: string) {
      super(url);
      sockets.push(this);
    }
  };
  await client.connect();
  const notices: unknown[] = [];
  client.on('notice', (notice) => notices.push(notice));
  return {
    query: (text, values) => client.query(text, values && [...values]).then(plain),
    // After its socket has gone the driver would wait for an end that does not come.
    close: async () => {
      if (sockets.every(({ readyState }) => readyState === WebSocket.OPEN)) await client.end();
    },
    script: async (text) => {
      const results = (await client.query(text)) as unknown as QueryResult | QueryResult[];
      return Array.isArray(results) ? results.map(plain) : plain(results);
    },
    prepared: (name, { text, values = [] }) => client.query({ name, text, values: [...values] }).then(plain),
    listen: async (channel) => {
      const heard: Heard[] = [];
      client.on('notification', ({ channel: at, payload = '' }) => heard.push({ channel: at, payload }));
      await client.query(`listen ${channel}`);
      return async () => heard;
    },
    notices: async () => notices,
    destroy: () => {
      for (const socket of sockets) socket.terminate();
    },
  };
}

function plain({ command, rowCount, fields, rows }: QueryResult) {
  return { command, rowCount, fields, rows };
}
