/** postgres.js (`postgres`), one connection per session. */
import { once } from 'node:events';
import net from 'node:net';
import { Readable } from 'node:stream';
import { pipeline as flow } from 'node:stream/promises';
import postgres from 'postgres';
import { startupOptions, type Target } from '../paths.ts';
import {
  settle,
  type Driver,
  type Heard,
  type OpenOptions,
  type Session,
  type TransactionOptions,
} from '../session.ts';

const CONNECT_TIMEOUT_SECONDS = 60;

export const postgresJsDriver: Driver = {
  name: 'postgres.js',
  paths: ['direct', 'pooled'],
  can: () => [
    'script',
    'prepared',
    'pipeline',
    'cursor',
    'copyIn',
    'copyOut',
    'listen',
    'notices',
    'cancel',
    'destroy',
    'transaction',
  ],
  open,
  cannot: {
    'COPY in that fails, by the data and by the client': 'its stream does not end when the server refuses the data',
    'COPY out that fails amid the rows': 'the error reaches nobody but the process',
  },
};

type Rows = postgres.RowList<postgres.Row[]>;
type Sql = Pick<postgres.Sql, 'unsafe'>;

export function connectPostgresJs(target: Target, options: OpenOptions = {}, more: object = {}): postgres.Sql {
  const startup = startupOptions(target, options.settings);
  return postgres({
    host: target.host,
    port: target.port,
    user: target.user,
    password: options.password ?? target.password,
    database: options.database ?? target.database,
    max: 1,
    connect_timeout: CONNECT_TIMEOUT_SECONDS,
    connection: {
      ...(startup !== undefined && { options: startup }),
      ...(options.applicationName !== undefined && { application_name: options.applicationName }),
    },
    onnotice: () => {},
    ...more,
  });
}

async function open(target: Target, options: OpenOptions = {}): Promise<Session> {
  const notices: unknown[] = [];
  const sockets: net.Socket[] = [];
  const sql = connectPostgresJs(target, options, {
    onnotice: (notice: unknown) => notices.push(notice),
    // The driver's own way to bring a socket; this one can be broken from outside.
    socket: async () => {
      const socket = net.connect(target.port, target.host);
      sockets.push(socket);
      await once(socket, 'connect');
      return socket;
    },
  });
  let last: { cancel(): void } | undefined;
  const run = (text: string, values?: readonly unknown[], prepare = false) => {
    const query = values === undefined ? sql.unsafe(text) : sql.unsafe(text, [...values] as never[], { prepare });
    last = query;
    return query;
  };
  return {
    query: async (text, values) => answer((await run(text, values)) as Rows),
    close: () => sql.end({ timeout: 5 }),
    script: async (text) => {
      const results = (await run(text)) as Rows | Rows[];
      return isRows(results) ? answer(results) : results.map(answer);
    },
    prepared: async (_name, { text, values = [] }) => answer((await run(text, values, true)) as Rows),
    pipeline: (statements) =>
      Promise.all(
        statements.map(({ text, values }) => settle((run(text, values) as Promise<Rows>).then((rows) => answer(rows)))),
      ),
    cursor: async ({ text, values = [] }, size, batches = Infinity) => {
      const read: unknown[][] = [];
      for await (const rows of sql.unsafe(text, [...values] as never[]).cursor(size)) {
        read.push([...rows]);
        if (read.length >= batches) break;
      }
      return read;
    },
    copyIn: async (text, chunks) => flow(Readable.from(chunks), await sql.unsafe(text).writable()),
    copyOut: async (text) => {
      const chunks: Buffer[] = [];
      for await (const chunk of await sql.unsafe(text).readable()) chunks.push(chunk as Buffer);
      return Buffer.concat(chunks);
    },
    listen: async (channel) => {
      const heard: Heard[] = [];
      await sql.listen(channel, (payload) => heard.push({ channel, payload }));
      return async () => heard;
    },
    notices: async () => notices,
    cancel: async () => last?.cancel(),
    destroy: () => {
      for (const socket of sockets) socket.destroy();
    },
    transaction: (statements, { isolation, readOnly = false }: TransactionOptions = {}) =>
      sql.begin(`${isolation ? `isolation level ${isolation}` : ''} ${readOnly ? 'read only' : ''}`, (tx) =>
        all(tx, statements),
      ),
  };
}

async function all(sql: Sql, statements: readonly { text: string; values?: readonly unknown[] }[]): Promise<unknown[]> {
  const answers: unknown[] = [];
  for (const { text, values = [] } of statements)
    answers.push(answer((await sql.unsafe(text, [...values] as never[])) as Rows));
  return answers;
}

/** Of several statements in one text there is a list of results. */
function isRows(results: Rows | Rows[]): results is Rows {
  return 'command' in results;
}

function answer(rows: Rows): unknown {
  if (!isRows(rows)) return (rows as Rows[]).map(answer);
  const { columns, command, count } = rows;
  return { command, count, columns: columns as unknown, rows: [...rows] };
}
