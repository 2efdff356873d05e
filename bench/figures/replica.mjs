/**
 * A sleeping read replica from connect to its first row through the proxy, beside a bare clone and a bare Postgres start:
 * while its primary runs and has just written, and while that sleeps. And how far it is behind: from a commit on the
 * primary until the replica answers with it, beside the same question to the primary itself.
 */
import pg from 'pg';
import { bareFloor } from '../lib/floor.mjs';
import { childOf, computeOf, query } from '../lib/product.mjs';
import { inTurn, timed } from '../lib/stats.mjs';

const ROUNDS = 10;
const LAG_ROUNDS = 50;

export const needs = ['xfs'];

export async function* measure({ product, pool }) {
  const primary = await product.createProject({ name: 'primary' });
  await query(primary.uri, 'create table ledger (n int primary key, filler text)');
  await query(primary.uri, `insert into ledger select n, repeat('x', 1000) from generate_series(1, 10000) n`);
  const compute = computeOf(product, primary);
  await product.suspend(primary);
  const floor = await bareFloor(pool.directory, compute, primary, pool.name === 'plain' ? 'never' : 'always');
  const replica = await replicaOf(product, primary);
  await product.suspend(replica);
  let last = 10_000;
  const write = () => query(primary.uri, `insert into ledger values ($1, repeat('x', 1000))`, [(last += 1)]);
  const start = async () => {
    const ms = await timed(() => query(replica.uri, 'select max(n) from ledger'));
    await product.suspend(replica);
    return ms;
  };
  const asleep = await inTurn(ROUNDS, start, () => floor.branch());
  yield figure(`replica start on connect, primary asleep, ${pool.name}`, asleep);
  const awake = await inTurn(
    ROUNDS,
    async () => {
      await write();
      return start();
    },
    () => floor.branch(),
  );
  floor.remove();
  yield figure(`replica start on connect, primary running, ${pool.name}`, awake);
  yield await lag(primary, replica, () => (last += 1), pool);
}

const figure = (name, { samples, floorSamples }) => ({
  name,
  unit: 'ms',
  samples,
  floor: { name: 'bare clone + start + first row', samples: floorSamples },
  bar: { atMost: 3, of: 'floor' },
});

async function replicaOf(product, primary) {
  const created = await product.change('POST', `/projects/${primary.projectId}/endpoints`, {
    endpoint: { branch_id: primary.branchId, type: 'read_only' },
  });
  return childOf(primary, { branch: { id: primary.branchId }, endpoints: [created.endpoint] });
}

async function lag(primary, replica, next, pool) {
  const [writer, own, follower] = await Promise.all([primary.uri, primary.uri, replica.uri].map(open));
  const until = async (session, n) => {
    for (;;) {
      const { rows } = await session.query('select 1 from ledger where n = $1', [n]);
      if (rows.length > 0) return;
    }
  };
  const commit = async () => {
    const n = next();
    await writer.query(`insert into ledger values ($1, '')`, [n]);
    return n;
  };
  const seenBy = (session) => async () => {
    const n = await commit();
    return timed(() => until(session, n));
  };
  const { samples, floorSamples } = await inTurn(LAG_ROUNDS, seenBy(follower), seenBy(own));
  await Promise.all([writer, own, follower].map((session) => session.end()));
  return {
    name: `replica lag: from the end of a commit until the replica has it, ${pool.name}`,
    unit: 'ms',
    samples,
    floor: { name: 'the same asked of the primary', samples: floorSamples },
  };
}

async function open(uri) {
  const session = new pg.Client({ connectionString: uri });
  session.on('error', () => {});
  await session.connect();
  return session;
}
