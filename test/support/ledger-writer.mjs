/**
 * A process of its own that commits numbered rows one after another and reports each commit, so that neither the test's
 * event loop nor its clones disturb what is measured. LEDGER_URI names the database; table ledger(n bigint primary key).
 *
 * stdout, one line per event: `issued` is implied by order: row n+1 is sent only after `c <n> <microseconds>` was printed.
 *   ready            connected
 *   c <n> <us> <at>  commit of row n was acknowledged after that many microseconds, at that time (us since the epoch)
 *   lost <message>   the session broke (and the process ends)
 */
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';

/** A steady pace: a writer that takes all of the machine measures the machine. No two commits are closer than this. */
const BETWEEN_COMMITS_MS = 4;

const client = new pg.Client({ connectionString: process.env.LEDGER_URI });
let stopping = false;
process.on('SIGTERM', () => (stopping = true));
client.on('error', () => {});

try {
  await client.connect();
  const { rows } = await client.query('select coalesce(max(n), 0)::int as n from ledger');
  let { n } = rows[0];
  process.stdout.write('ready\n');
  while (!stopping) {
    n += 1;
    const begun = process.hrtime.bigint();
    await client.query({ name: 'commit', text: 'insert into ledger (n) values ($1)', values: [n] });
    const us = (process.hrtime.bigint() - begun) / 1000n;
    const atUs = Math.round((performance.timeOrigin + performance.now()) * 1000);
    process.stdout.write(`c ${n} ${us} ${atUs}\n`);
    await pause(BETWEEN_COMMITS_MS);
  }
} catch (error) {
  process.stdout.write(`lost ${error.message}\n`);
}
await client.end().catch(() => {});
