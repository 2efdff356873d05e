/**
 * What commands ask of a running Ballast beside the API: `POST /verify?project=…&branch=…`, answered by one line of JSON
 * for each branch as soon as it has been verified, and `POST /why-awake?name=…`, one line for each endpoint. Over a Unix socket that only Ballast's own user may open, and with a
 * secret of this start that lies in the data directory, for where computes run as that user, too.
 *
 * A caller that hangs up ends the work that it asked for. One verification at a time.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { chmod, readFile, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import type { Home } from './home.ts';
import { AppError, errorMessage } from './lib/errors.ts';
import type { Logger } from './lib/log.ts';
import type { Which } from './verify.ts';

export interface AdminOptions {
  home: Pick<Home, 'sockets' | 'secrets'>;
  logger: Logger;
  verify(which: Which, signal: AbortSignal): AsyncIterable<unknown>;
  whyAwake(name: string | undefined): Promise<readonly unknown[]>;
}

export interface AdminServer {
  /** Ends what is under way. */
  close(): Promise<void>;
}

/** The last line when something went wrong on the way. */
export interface AdminError {
  error: string;
}

export async function startAdmin(options: AdminOptions): Promise<AdminServer> {
  const { home, logger } = options;
  const secret = randomBytes(32).toString('base64url');
  await rm(secretFile(home), { force: true });
  await writeFile(secretFile(home), secret, { mode: 0o600 });
  const closing = new AbortController();
  let running: Promise<void> | undefined;
  const server = http.createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    if (!isSecret(request.headers.authorization, secret)) return void response.writeHead(401).end();
    const given = (name: string) => url.searchParams.get(name) ?? undefined;
    const asked = request.method === 'POST' ? url.pathname : undefined;
    if (asked !== '/verify' && asked !== '/why-awake') return void response.writeHead(404).end();
    if (asked === '/why-awake') {
      const facts = async function* () {
        yield* await options.whyAwake(given('name'));
      };
      answer(facts, response, closing.signal).catch((error: unknown) =>
        logger.warn({ err: error }, 'why-awake could not be answered'),
      );
      return;
    }
    if (running || closing.signal.aborted) return void response.writeHead(409).end();
    const which = { project: given('project'), branch: given('branch') };
    running = answer((signal) => options.verify(which, signal), response, closing.signal)
      .catch((error: unknown) => logger.warn({ err: error }, 'a verification ended early'))
      .finally(() => (running = undefined));
  });
  await rm(socketFile(home), { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketFile(home), resolve);
  });
  await chmod(socketFile(home), 0o600);
  return {
    close: async () => {
      closing.abort();
      await running;
      server.closeAllConnections();
      await new Promise<void>((resolve) => void server.close(() => resolve()));
      await rm(secretFile(home), { force: true });
    },
  };
}

async function answer(
  work: (signal: AbortSignal) => AsyncIterable<unknown>,
  response: http.ServerResponse,
  closing: AbortSignal,
): Promise<void> {
  const hungUp = new AbortController();
  response.on('close', () => hungUp.abort());
  const signal = AbortSignal.any([closing, hungUp.signal]);
  response.writeHead(200, { 'content-type': 'application/x-ndjson' }).flushHeaders();
  try {
    for await (const result of work(signal)) response.write(`${JSON.stringify(result)}\n`);
  } catch (error) {
    const text = closing.aborted ? 'Ballast is stopping' : errorMessage(error);
    response.write(`${JSON.stringify({ error: text } satisfies AdminError)}\n`);
    if (!signal.aborted) throw error;
  } finally {
    response.end();
  }
}

function isSecret(authorization: string | undefined, secret: string): boolean {
  const given = Buffer.from(authorization ?? '');
  const wanted = Buffer.from(`Bearer ${secret}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

/** Throws AppError 'conflict' when another verification is under way, 'unavailable' when nobody answers. */
export async function* askAdmin(
  home: Pick<Home, 'sockets' | 'secrets'>,
  what: 'verify' | 'why-awake',
  given: Readonly<Record<string, string | undefined>>,
): AsyncGenerator<unknown> {
  const secret = await readFile(secretFile(home), 'utf8').catch((cause: unknown) => {
    throw new AppError('unavailable', `the running Ballast cannot be asked: ${errorMessage(cause)}`, { cause });
  });
  const query = new URLSearchParams(
    Object.entries(given).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const request = http.request({
      socketPath: socketFile(home),
      path: `/${what}?${query.toString()}`,
      method: 'POST',
      headers: { authorization: `Bearer ${secret}` },
    });
    request.once('response', resolve);
    request.once('error', (cause) =>
      reject(new AppError('unavailable', `the running Ballast does not answer: ${cause.message}`, { cause })),
    );
    request.end();
  });
  if (response.statusCode === 409) throw new AppError('conflict', 'another verification is under way');
  if (response.statusCode !== 200) {
    throw new AppError('unavailable', `the running Ballast answered ${response.statusCode}`);
  }
  let rest = '';
  for await (const chunk of response.setEncoding('utf8')) {
    const lines = (rest + (chunk as string)).split('\n');
    rest = lines.pop()!;
    for (const line of lines) {
      const value = JSON.parse(line) as unknown;
      const { error } = value as Partial<AdminError>;
      if (error !== undefined) throw new AppError('unavailable', error);
      yield value;
    }
  }
}

const secretFile = (home: Pick<Home, 'secrets'>): string => path.join(home.secrets, 'admin');

const socketFile = (home: Pick<Home, 'sockets'>): string => path.join(home.sockets, 'admin');
