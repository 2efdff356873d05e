/**
 * What sets a read-only compute apart from others: it stays in recovery, takes WAL from its primary by the relay and
 * from the archive, and must not be smaller than its primary in what WAL speaks of.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../lib/errors.ts';
import type { Lsn } from '../lib/lsn.ts';
import { quoteForCommand } from '../storage/archive.ts';
import { quoteLiteral } from '../postgres/internal-session.ts';
import type { ServerSizes } from '../postgres/control-data.ts';
import type { Compute } from './compute.ts';
import { maxConnections } from './sizes.ts';
import type { StandbySpec } from './types.ts';

const REACH_STEP_MS = 5;

/** Lower bounds by setting: what the primary has by its row, and what its data says of the past. */
export function leastSettings({ primary }: StandbySpec, sizes: ServerSizes): Record<string, number> {
  const least: Record<string, number> = {
    max_connections: Math.max(maxConnections(primary.minCu, primary.maxCu), sizes.maxConnections),
    max_worker_processes: sizes.maxWorkerProcesses,
    max_wal_senders: sizes.maxWalSenders,
    max_prepared_transactions: sizes.maxPreparedTransactions,
    max_locks_per_transaction: sizes.maxLocksPerTransaction,
  };
  for (const [name, value] of Object.entries(primary.pgSettings)) {
    const number = Number(value);
    if (name in least && Number.isInteger(number)) least[name] = Math.max(least[name]!, number);
  }
  return least;
}

/** WAL that the primary has archived and removed before the standby could stream it. `false` says: there is no more. */
export function restoreCommand(walDirectory: string, platform: NodeJS.Platform = process.platform): string {
  const file = `${quoteForCommand(walDirectory)}/%f`;
  const copy = platform === 'linux' ? 'cp --reflink=auto' : 'cp';
  return `[ -e ${file} ] && ${copy} ${file} %p`;
}

/**
 * Resolves once everything up to the point has been replayed: Postgres answers queries earlier, as soon as what it has
 * is consistent. Rejects with AppError 'unavailable' when replay has stopped before.
 */
export async function reachPoint(compute: Compute, point: Lsn, withinMs: number): Promise<void> {
  const deadlineMs = performance.now() + withinMs;
  const question = `SELECT pg_catalog.pg_last_wal_replay_lsn() >= ${quoteLiteral(point)}::pg_catalog.pg_lsn,
    pg_catalog.pg_get_wal_replay_pause_state()`;
  for (;;) {
    const [row] = await compute.sessions.inPostgres((session) => session.query(question));
    if (row![0] === 't') return;
    const paused = row![1] === 'paused';
    if (paused || performance.now() > deadlineMs || !compute.isRunning) {
      throw new AppError('unavailable', 'the read-only compute did not come up to date', {
        internal: paused ? 'replay has paused' : 'replay takes too long',
      });
    }
    await sleep(REACH_STEP_MS);
  }
}
