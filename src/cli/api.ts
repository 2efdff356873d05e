/**
 * The API as commands use it: with the first key, from the data directory.
 */
import { readFile } from 'node:fs/promises';
import type { Home } from '../home.ts';
import { errorMessage } from '../lib/errors.ts';
import { CommandError } from './print.ts';
import { readRunning } from './running.ts';
import type { RunningFacts } from './running.ts';

export interface Api {
  running: RunningFacts;
  get<Body>(route: string): Promise<Body>;
  post<Body>(route: string, body: unknown): Promise<Body>;
  delete<Body>(route: string): Promise<Body>;
}

const TIMEOUT_MS = 10_000;

/** Throws CommandError when Ballast does not run on this data directory. */
export async function openApi(home: Home): Promise<Api> {
  const running = await readRunning(home);
  if (running === undefined) {
    throw new CommandError(`Ballast is not running on ${home.dataDir}; start it with \`ballast start\``);
  }
  const key = await readKey(home);
  const call = async <Body>(method: string, route: string, body?: unknown): Promise<Body> => {
    const response = await request(`${running.apiUrl}${route}`, method, key, body);
    if (response.status === 401) {
      throw new CommandError(`the API key in ${home.apiKeyFile} is not accepted (was it revoked?)`);
    }
    const answer = await response.text();
    if (!response.ok) throw new CommandError(messageOf(answer) ?? `the API answered ${response.status}`);
    return (answer === '' ? undefined : JSON.parse(answer)) as Body;
  };
  return {
    running,
    get: (route) => call('GET', route),
    post: (route, body) => call('POST', route, body),
    delete: (route) => call('DELETE', route),
  };
}

export async function readKey(home: Home): Promise<string> {
  try {
    return (await readFile(home.apiKeyFile, 'utf8')).trim();
  } catch (error) {
    throw new CommandError(`cannot read the API key in ${home.apiKeyFile}: ${errorMessage(error)}`, { cause: error });
  }
}

async function request(url: string, method: string, key: string, body: unknown): Promise<Response> {
  const headers: Record<string, string> = { authorization: `Bearer ${key}` };
  if (body !== undefined) headers['content-type'] = 'application/json';
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  try {
    return await fetch(url, { method, headers, signal, ...(body !== undefined && { body: JSON.stringify(body) }) });
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    throw new CommandError(`the API at ${url} does not answer: ${errorMessage(cause)}`, { cause: error });
  }
}

function messageOf(answer: string): string | undefined {
  try {
    return (JSON.parse(answer) as { message?: string }).message;
  } catch {
    return undefined;
  }
}
