/**
 * A driver in a program of its own: requests are JSON lines on its standard input, answers on its output. Sessions take
 * requests in order, each session beside the others.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Capability, Heard, Session } from '../session.ts';

export interface Program {
  /** Starts it when it does not run. */
  call(session: number, call: string, more?: object): Promise<unknown>;
  stop(): Promise<void>;
}

/** What a program says of an error. */
class ProgramError extends Error {
  constructor(fields: Readonly<Record<string, unknown>>) {
    super(String(fields['message']));
    Object.assign(this, { ...fields, message: this.message });
  }
}

interface Line {
  id: number;
  answer?: unknown;
  error?: Record<string, unknown>;
}

export function createProgram(command: string, args: readonly string[]): Program {
  let child: ChildProcess | undefined;
  let errors = '';
  let next = 0;
  const waiting = new Map<number, { resolve(answer: unknown): void; reject(error: Error): void }>();
  const start = (): ChildProcess => {
    const started = spawn(command, [...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    started.stderr.on('data', (chunk: Buffer) => (errors = (errors + chunk.toString()).slice(-4_000)));
    createInterface({ input: started.stdout }).on('line', (line) => {
      const { id, answer, error } = JSON.parse(line) as Line;
      const asked = waiting.get(id);
      waiting.delete(id);
      if (error === undefined) asked?.resolve(answer);
      else asked?.reject(new ProgramError(error));
    });
    const ended = () => {
      for (const asked of waiting.values()) asked.reject(new Error(`the program has ended: ${errors}`));
      waiting.clear();
    };
    started.on('error', ended);
    started.on('exit', ended);
    return started;
  };
  return {
    call: (session, call, more = {}) => {
      child ??= start();
      const id = next++;
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        child!.stdin!.write(`${JSON.stringify({ id, session, call, ...more })}\n`);
      });
    },
    stop: async () => {
      if (child === undefined) return;
      const exited = new Promise((resolve) => child!.once('exit', resolve));
      child.kill('SIGKILL');
      await exited;
      child = undefined;
    },
  };
}

let sessions = 0;

/** A session of the program; of what it can do, `can`. `options` are in the words of its driver. */
export async function openIn(program: Program, options: object, can: readonly Capability[]): Promise<Session> {
  const session = sessions++;
  const call = (name: string, more?: object) => program.call(session, name, more);
  await call('open', { options });
  const base64 = (chunks: readonly Buffer[]) => chunks.map((chunk) => chunk.toString('base64'));
  const every: Required<Pick<Session, Exclude<Capability, 'session' | 'startup' | 'builder' | 'destroy'>>> = {
    script: (text) => call('script', { text }),
    prepared: (name, { text, values = [] }) => call('prepared', { name, text, values }),
    pipeline: (statements) => call('pipeline', { statements }) as Promise<never>,
    cursor: ({ text, values = [] }, size, batches) =>
      call('cursor', { text, values, size, batches: batches ?? null }) as Promise<unknown[][]>,
    copyIn: (text, chunks) => call('copyIn', { text, chunks: base64(chunks) }),
    copyInGivenUp: (text, chunks) => call('copyInGivenUp', { text, chunks: base64(chunks) }),
    copyOut: async (text) => Buffer.from(((await call('copyOut', { text })) as { base64: string }).base64, 'base64'),
    listen: async (channel) => {
      await call('listen', { channel });
      return async () => (await call('hear')) as Heard[];
    },
    notices: () => call('notices'),
    cancel: async () => void (await call('cancel')),
    transaction: (statements, { isolation = null, readOnly = false } = {} as never) =>
      call('transaction', { statements, isolation, readOnly }),
  };
  const offered = Object.fromEntries(Object.entries(every).filter(([name]) => can.includes(name as Capability)));
  return {
    query: (text, values) => call('query', values === undefined ? { text } : { text, values }),
    close: async () => void (await call('close')),
    ...offered,
  };
}
