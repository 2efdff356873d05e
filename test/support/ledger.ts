/**
 * The parent side of ledger-writer.mjs: starts it, follows its commits, and judges what a copy of the ledger may hold.
 *
 * The rule: rows 1..k without a gap, where k is at least the last commit acknowledged before the copy was asked for, and
 * at most one more than the last acknowledged when the copy was done (that one may be committed but not yet reported).
 */
import { spawn, type ChildProcess } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { query } from './sql.ts';

export interface Commit {
  n: number;
  latencyMs: number;
  atMs: number;
  /** The writer's wall clock when it heard of it, in microseconds since the epoch. */
  atUs: number;
}

export class LedgerWriter {
  readonly commits: Commit[] = [];
  lost: string | undefined;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;

  private constructor(child: ChildProcess, onReady: () => void) {
    this.#child = child;
    this.#ended = new Promise((resolve) => {
      child.once('close', () => resolve());
    });
    createInterface({ input: child.stdout! }).on('line', (line) => {
      const [kind, first, second, third] = line.split(' ');
      if (kind === 'ready') onReady();
      else if (kind === 'lost') this.lost = line.slice(5);
      else
        this.commits.push({
          n: Number(first),
          latencyMs: Number(second) / 1000,
          atMs: performance.now(),
          atUs: Number(third),
        });
    });
  }

  /** Makes the table if need be and returns once the writer is connected. */
  static async start(uri: string): Promise<LedgerWriter> {
    await query(
      uri,
      'create table if not exists ledger (n bigint primary key, at timestamptz default clock_timestamp())',
    );
    const child = spawn(process.execPath, [path.join(import.meta.dirname, 'ledger-writer.mjs')], {
      env: { PATH: process.env['PATH'], LEDGER_URI: uri },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let writer: LedgerWriter | undefined;
    await new Promise<void>((resolve, reject) => {
      writer = new LedgerWriter(child, resolve);
      child.once('exit', () => reject(new Error(`the ledger writer ended: ${writer?.lost ?? 'no reason given'}`)));
    });
    return writer!;
  }

  get last(): number {
    return this.commits.at(-1)?.n ?? 0;
  }

  /** Worst and median latency of the commits acknowledged between two moments of performance.now(). */
  latencies(fromMs: number, toMs: number): number[] {
    return this.commits
      .filter((commit) => commit.atMs >= fromMs && commit.atMs < toMs)
      .map((commit) => commit.latencyMs);
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#ended;
  }
}

/** Throws unless the copy holds rows 1..k and k lies within the bounds; gives k. */
export async function judgeLedger(uri: string, atLeast: number, atMost: number): Promise<number> {
  const [row] = await query(
    uri,
    'select count(*)::int as count, coalesce(min(n), 0)::int as min, coalesce(max(n), 0)::int as max from ledger',
  );
  const { count, min, max } = row as { count: number; min: number; max: number };
  if (count > 0 && min !== 1) throw new Error(`the ledger begins at ${min}`);
  if (count !== max) throw new Error(`the ledger has ${count} rows up to ${max}: there is a gap`);
  if (max < atLeast) throw new Error(`commit ${atLeast} was acknowledged before the branch, which ends at ${max}`);
  if (max > atMost) throw new Error(`the branch holds commit ${max}, made after it was done (${atMost})`);
  return max;
}
