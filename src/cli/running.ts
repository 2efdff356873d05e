/**
 * What a running Ballast says about itself: `<data-dir>/run/ballast.json`, written when it serves and removed when it
 * stops. It holds no secret. Other commands find the running one by it, whatever flags they were given themselves.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { LimitStatus } from '../compute/limits.ts';
import type { Config, ProxyProtocol } from '../config.ts';
import type { Home } from '../home.ts';
import type { CloneMode } from '../storage/types.ts';

export interface RunningFacts {
  pid: number;
  version: string;
  startedAt: string;
  /** `http://host:port/api/v2` */
  apiUrl: string;
  /** Host and port at which clients of this machine reach the proxy. */
  pgHost: string;
  pgPort: number;
  apiPort: number;
  domain: string;
  proxyProtocol: ProxyProtocol;
  cloneMode: CloneMode;
  fileSystem: string;
  computeLimits: LimitStatus;
}

/** Undefined when none runs: there is no such file, or its process is gone. */
export async function readRunning(home: Home): Promise<RunningFacts | undefined> {
  let facts: RunningFacts;
  try {
    facts = JSON.parse(await readFile(factsFile(home), 'utf8')) as RunningFacts;
  } catch {
    return undefined;
  }
  return isAlive(facts.pid) ? facts : undefined;
}

export async function writeRunning(home: Home, facts: RunningFacts): Promise<void> {
  await writeFile(factsFile(home), `${JSON.stringify(facts, null, 2)}\n`, { mode: 0o600 });
}

export async function removeRunning(home: Home): Promise<void> {
  await rm(factsFile(home), { force: true });
}

/** The host by which a client on this machine reaches what listens there. */
export function clientHost(config: Pick<Config, 'listen'>): string {
  if (['127.0.0.1', '::1', '0.0.0.0', '::', 'localhost'].includes(config.listen)) return 'localhost';
  return config.listen.includes(':') ? `[${config.listen}]` : config.listen;
}

function factsFile(home: Home): string {
  return path.join(home.run, 'ballast.json');
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
