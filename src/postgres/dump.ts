/**
 * The schema of a database of a running Postgres, as pg_dump writes it.
 *
 * pg_dump is the WebAssembly build of the newest major, on every machine and for every major: one text for all, no
 * child process that would need the secret or a user of its own, and what reads a tenant's catalogs is in a sandbox.
 * It logs in as cloud_admin with the options of internal sessions, then becomes neon_superuser, who may read every
 * table and no secret (passwords of foreign servers and subscriptions are left out).
 */
import net from 'node:net';
import path from 'node:path';
import { MessageChannel, Worker } from 'node:worker_threads';
import { AppError } from '../lib/errors.ts';
import { Semaphore } from '../lib/semaphore.ts';
import { pinnedOptions, type InternalLogin } from './internal-session.ts';

export interface DumpOptions {
  signal?: AbortSignal;
  /** Default: two minutes. */
  timeoutMs?: number;
  /** Of what the server sends. Default: 256 MiB. */
  limitBytes?: number;
}

const TIMEOUT_MS = 120_000;
const LIMIT_BYTES = 256 * 1024 * 1024;
/** Someone may hold a table exclusively. */
const LOCK_WAIT_MS = 20_000;
/** Each needs a thread and its memory. */
const PARALLEL_DUMPS = 2;
const dumps = new Semaphore(PARALLEL_DUMPS);

/**
 * Resolves to SQL without psql's own commands. The database must exist.
 * Throws AppError 'unavailable' when it cannot be read in time or a table is locked, 'too_large' beyond the limit.
 */
export function dumpSchema(login: InternalLogin, options: DumpOptions = {}): Promise<string> {
  return dumps.run(async () => {
    const deadline = AbortSignal.timeout(options.timeoutMs ?? TIMEOUT_MS);
    const signal = options.signal ? AbortSignal.any([options.signal, deadline]) : deadline;
    return tidy(await runPgDump(login, signal, options.limitBytes ?? LIMIT_BYTES), login.major);
  });
}

function dumpArguments(login: InternalLogin): string[] {
  const parameters = {
    dbname: login.database,
    user: 'cloud_admin',
    password: login.secret,
    application_name: 'ballast',
    options: pinnedOptions(login.major),
  };
  const conninfo = Object.entries(parameters).map(
    ([name, value]) => `${name}='${value.replaceAll(/['\\]/g, (character) => `\\${character}`)}'`,
  );
  return [
    ...['--dbname', conninfo.join(' ')],
    ...['--schema-only', '--encoding=UTF8', '--role=neon_superuser', `--lock-wait-timeout=${LOCK_WAIT_MS}`],
  ];
}

type WorkerAnswer = { sql: string } | { error: string };

function runPgDump(login: InternalLogin, signal: AbortSignal, limitBytes: number): Promise<string> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(gaveUp(signal));
    const arrivals = new Int32Array(new SharedArrayBuffer(4));
    const { port1, port2 } = new MessageChannel();
    const socket = net.connect(path.join(login.socketDirectory, `.s.PGSQL.${login.port}`));
    const worker = new Worker(new URL('./dump-worker.js', import.meta.url), {
      workerData: { arrivals, port: port2, args: dumpArguments(login) },
      transferList: [port2],
      env: {},
      stdout: true,
      stderr: true,
    });
    // What pg_dump says on the way is of no use, but must not fill a buffer.
    worker.stdout.resume();
    worker.stderr.resume();

    const end = (settle: () => void) => {
      signal.removeEventListener('abort', onAbort);
      socket.destroy();
      port1.close();
      // Also while it sleeps or computes.
      void worker.terminate();
      settle();
    };
    const fail = (error: AppError) => end(() => reject(error));
    const onAbort = () => fail(gaveUp(signal));
    signal.addEventListener('abort', onAbort);

    const deliver = (message: Buffer | null) => {
      port1.postMessage(message);
      Atomics.add(arrivals, 0, 1);
      Atomics.notify(arrivals, 0);
    };
    let received = 0;
    socket.on('data', (bytes) => {
      received += bytes.length;
      if (received > limitBytes) fail(new AppError('too_large', 'the schema is too large to be read'));
      else deliver(bytes);
    });
    socket.on('error', (cause) => fail(unreadable(cause)));
    socket.on('close', () => deliver(null));
    port1.on('message', (bytes: Uint8Array) => socket.write(bytes));
    worker.on('error', (cause) => fail(unreadable(cause)));
    worker.on('exit', () => fail(unreadable(new Error('pg_dump ended early'))));
    worker.on('message', (answer: WorkerAnswer) => {
      if ('sql' in answer) end(() => resolve(answer.sql));
      else fail(refused(answer.error));
    });
  });
}

const unreadable = (cause: unknown) => new AppError('unavailable', 'the schema could not be read', { cause });

function gaveUp(signal: AbortSignal): AppError {
  return new AppError('unavailable', 'the schema could not be read in time', { cause: signal.reason });
}

function refused(text: string): AppError {
  return text.includes('lock timeout')
    ? new AppError('unavailable', 'the schema could not be read: a table is locked', { internal: text })
    : unreadable(new Error(text));
}

/** What an older pg_dump, or one that writes for psql alone, has no line for. */
function tidy(sql: string, major: number): string {
  const withoutBlanks = sql.replace(/^(--\n-- PostgreSQL database dump\n--\n)\n+/, '$1\n').replace(/\n+$/, '\n\n');
  return major >= 17 ? withoutBlanks : withoutBlanks.replace(/^SET transaction_timeout = 0;\n/m, '');
}
