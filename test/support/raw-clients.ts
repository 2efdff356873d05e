/**
 * Thousands of clients that cost little: a process of its own that speaks plain Postgres over plain sockets.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import path from 'node:path';

export interface RawLogin {
  /** Names the client from now on. */
  id: number;
  port: number;
  endpoint: string;
  user: string;
  password: string;
  database: string;
}

/** Of each, in order; `error`: what it was told. */
export type Outcome<T> = { value?: T; error?: string };

export interface RawClients {
  /** At most `width` at a time. */
  logIn(logins: readonly RawLogin[], width: number): Promise<Outcome<undefined>[]>;
  /** Gives the first column of the last row. */
  ask(questions: readonly { id: number; sql: string }[], width: number): Promise<Outcome<string>[]>;
  /** How many are connected. */
  count(): Promise<number>;
  /** All say goodbye. */
  hangUp(): Promise<void>;
  stop(): Promise<void>;
}

export function startRawClients(): RawClients {
  const child = fork(path.join(import.meta.dirname, 'raw-clients-process.mjs'), { stdio: 'inherit', execArgv: [] });
  const waiting = new Map<number, { resolve: (answer: never) => void; reject: (error: Error) => void }>();
  let orders = 0;
  child.on('message', ({ order, answer }: { order: number; answer: never }) => {
    waiting.get(order)?.resolve(answer);
    waiting.delete(order);
  });
  child.on('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error('the process of the clients has ended'));
    waiting.clear();
  });
  const tell = <T>(words: object): Promise<T> =>
    new Promise<T>((resolve, reject) => {
      orders += 1;
      waiting.set(orders, { resolve, reject });
      child.send({ order: orders, words });
    });
  return {
    logIn: (logins, width) => tell({ logins, width }),
    ask: (questions, width) => tell({ questions, width }),
    count: () => tell({}),
    hangUp: async () => void (await tell({ hangUp: true })),
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exit = once(child, 'exit');
      child.disconnect();
      await exit;
    },
  };
}

/** How many files a process here may have open; Node takes all of what the hard limit allows. */
export async function openFileLimit(): Promise<number> {
  const limits = await readFile('/proc/self/limits', 'utf8').catch(() => '');
  const [, hard] = /^Max open files\s+\S+\s+(\S+)/m.exec(limits) ?? [];
  return hard === undefined ? 0 : hard === 'unlimited' ? Infinity : Number(hard);
}

/** Bytes of memory that a process has to itself and with others. */
export async function residentBytes(pid: number): Promise<number> {
  const [, kib] = /^VmRSS:\s+(\d+) kB/m.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) * 1024;
}
