/**
 * Removes subscriptions without ever talking to their publishers: a clone's copy would otherwise take the changes that
 * belong to its parent, or drop the parent's slots over there.
 */
import type { InternalSession } from '../postgres/internal-session.ts';
import { quoteIdentifier, quoteLiteral } from '../postgres/internal-session.ts';
import type { Sessions } from './sessions.ts';

/** Drops every subscription of the compute, database by database. Does nothing when there is none. */
export async function dropInheritedSubscriptions(sessions: Sessions): Promise<number> {
  const owners = await sessions.inPostgres((session) =>
    session.query(`
      SELECT d.datname::text, d.datallowconn::text, d.datconnlimit::text
      FROM pg_catalog.pg_database d WHERE d.oid IN (SELECT subdbid FROM pg_catalog.pg_subscription)`),
  );
  for (const [database, allowsConnections, connectionLimit] of owners) {
    // Left by an interrupted DROP DATABASE: nobody can enter, not even a subscription's worker.
    if (connectionLimit === '-2') continue;
    const work = () => sessions.inDatabase(database!, dropSubscriptions);
    await (allowsConnections === 'true' ? work() : withConnectionsAllowed(sessions, database!, work));
  }
  return owners.length;
}

async function withConnectionsAllowed(sessions: Sessions, database: string, work: () => Promise<void>): Promise<void> {
  const allow = (value: boolean) =>
    sessions.inPostgres((session) =>
      session.query(`ALTER DATABASE ${quoteIdentifier(database)} WITH ALLOW_CONNECTIONS ${value}`),
    );
  await allow(true);
  try {
    await work();
  } finally {
    await allow(false);
  }
}

/** Drops the subscriptions of the session's database, and nothing on their publishers. */
export async function dropSubscriptions(session: InternalSession): Promise<void> {
  const names = await session.query(`
    SELECT subname::text FROM pg_catalog.pg_subscription
    WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`);
  for (const [name] of names) {
    const subscription = quoteIdentifier(name!);
    await session.query(`ALTER SUBSCRIPTION ${subscription} DISABLE`);
    await session.query(`ALTER SUBSCRIPTION ${subscription} SET (slot_name = NONE)`);
    // While tables are still being copied, DROP SUBSCRIPTION connects to the publisher for their slots.
    await session.query(`
      DELETE FROM pg_catalog.pg_subscription_rel
      WHERE srsubid = (SELECT oid FROM pg_catalog.pg_subscription WHERE subname = ${quoteLiteral(name!)}
                       AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))`);
    await session.query(`DROP SUBSCRIPTION ${subscription}`);
  }
}
