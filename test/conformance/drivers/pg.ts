/** node-postgres, with pg-cursor and pg-copy-streams. */
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline as flow } from 'node:stream/promises';
import pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import { startupOptions, type Target } from '../paths.ts';
import { settle, type Driver, type Heard, type OpenOptions, type Session } from '../session.ts';

const CONNECT_TIMEOUT_MS = 60_000;

export const pgDriver: Driver = {
  name: 'pg',
  paths: ['direct', 'pooled'],
  can: () => [
    'script',
    'prepared',
    'pipeline',
    'cursor',
    'copyIn',
    'copyInGivenUp',
    'copyOut',
    'listen',
    'notices',
    'cancel',
    'destroy',
  ],
  open,
};

export function configOf(target: Target, options: OpenOptions = {}): pg.ClientConfig {
  const startup = startupOptions(target, options.settings);
  return {
    host: target.host,
    port: target.port,
    user: target.user,
    password: options.password ?? target.password,
    database: options.database ?? target.database,
    ssl: false,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    ...(startup !== undefined && { options: startup }),
    ...(options.applicationName !== undefined && { application_name: options.applicationName }),
  };
}

async function connect(config: pg.ClientConfig): Promise<pg.Client> {
  const client = new pg.Client(config);
  client.on('error', () => {});
  await client.connect();
  return client;
}

async function open(target: Target, options: OpenOptions = {}): Promise<Session> {
  const config = configOf(target, options);
  const client = await connect(config);
  const notices: unknown[] = [];
  client.on('notice', (notice) => notices.push(notice));
  // A client in pipeline mode is another one, made when it is first wanted.
  let pipelining: pg.Client | undefined;
  return {
    query: (text, values) => client.query(text, values && [...values]).then(plain),
    close: async () => {
      await Promise.allSettled([client.end(), pipelining?.end()]);
    },
    script: async (text) => {
      const results = (await client.query(text)) as unknown as pg.QueryResult | pg.QueryResult[];
      return Array.isArray(results) ? results.map(plain) : plain(results);
    },
    prepared: (name, { text, values = [] }) => client.query({ name, text, values: [...values] }).then(plain),
    pipeline: async (statements) => {
      pipelining ??= await connect({ ...config, pipeline: true } as pg.ClientConfig);
      const sender = pipelining;
      return Promise.all(
        statements.map(({ text, values = [] }) => settle(sender.query({ text, values: [...values] }).then(plain))),
      );
    },
    cursor: async ({ text, values = [] }, size, batches = Infinity) => {
      const cursor = client.query(new Cursor(text, [...values]));
      const read: unknown[][] = [];
      try {
        while (read.length < batches) {
          const rows = await cursor.read(size);
          if (rows.length === 0) break;
          read.push(rows);
        }
      } finally {
        await cursor.close();
      }
      return read;
    },
    copyIn: async (text, chunks) => {
      const stream = client.query(copyFrom(text));
      await flow(Readable.from(chunks), stream);
      return stream.rowCount;
    },
    copyInGivenUp: async (text, chunks) => {
      const stream = client.query(copyFrom(text));
      const failed = settle(once(stream, 'close'));
      for (const chunk of chunks) if (!stream.write(chunk)) await once(stream, 'drain');
      stream.destroy(new Error('given up'));
      return failed;
    },
    copyOut: async (text) => Buffer.concat(await client.query(copyTo(text)).toArray()),
    listen: async (channel) => {
      const heard: Heard[] = [];
      client.on('notification', (message) => heard.push({ channel: message.channel, payload: message.payload ?? '' }));
      await client.query(`listen ${client.escapeIdentifier(channel)}`);
      return async () => heard;
    },
    notices: async () => notices,
    // As pg does it itself: another connection that carries the key of this one.
    cancel: () => cancel(config, client),
    destroy: () => client.connection.stream.destroy(),
  };
}

/** Results without what belongs to the client: parsers, and the constructor of rows. */
export function plain(result: pg.QueryResult) {
  const { command, rowCount, fields, rows } = result;
  return { command, rowCount, fields, rows };
}

async function cancel(config: pg.ClientConfig, client: pg.Client): Promise<void> {
  const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
  const connection = new pg.Connection({ ssl: false } as never) as unknown as {
    stream: Socket;
    on(event: string, listener: () => void): void;
    connect(port: number, host: string): void;
    cancel(processId: number, secretKey: number): void;
  };
  await new Promise<void>((resolve) => {
    connection.on('connect', () => connection.cancel(processID, secretKey));
    connection.on('end', resolve);
    connection.on('error', resolve);
    connection.connect(config.port!, config.host!);
  });
}
