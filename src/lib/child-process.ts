/**
 * Short-lived children: run to the end, collect what they print, fail with what they said.
 */
import { spawn } from 'node:child_process';

export interface RunOptions {
  /** The whole environment of the child; nothing is inherited unless it is put here. */
  env?: Record<string, string>;
  cwd?: string;
  /** User and group to run as; only root can change them. */
  owner?: { uid: number; gid: number } | undefined;
  signal?: AbortSignal;
  /** Written to its standard input. */
  input?: string;
  /** Resolves to what it printed whatever its exit code. */
  tolerateFailure?: boolean;
}

/** Output kept of each stream; the rest is dropped. */
export const OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024;

/** Resolves to standard output. Rejects with the command's name, exit code and the end of standard error. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
      ...(options.env && { env: options.env }),
      ...(options.cwd !== undefined && { cwd: options.cwd }),
      ...(options.owner && { uid: options.owner.uid, gid: options.owner.gid }),
      ...(options.signal && { signal: options.signal }),
    });
    const out = collect(child.stdout!);
    const err = collect(child.stderr!);
    if (options.input !== undefined) child.stdin!.end(options.input);
    child.on('error', (cause) => reject(new Error(`${command}: ${cause.message}`, { cause })));
    child.on('close', (code, signal) => {
      if (code === 0 || (options.tolerateFailure && code !== null)) return resolve(out());
      const reason = err().trim().slice(-2000) || `ended with ${signal ?? `exit code ${code}`}`;
      reject(new Error(`${command}: ${reason}`));
    });
  });
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream.on('data', (chunk: Buffer) => {
    if (size < OUTPUT_LIMIT_BYTES) chunks.push(chunk);
    size += chunk.length;
  });
  return () => Buffer.concat(chunks).toString('utf8');
}
