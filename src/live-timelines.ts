/**
 * Tells storage which timelines are open in a running read-write compute, and gives it sessions there. Storage and
 * compute do not know each other; this is the wire between them.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { endpointsByIds } from './catalog/reconciling.ts';
import type { Queryable } from './catalog/types.ts';
import type { Supervisor } from './compute/types.ts';
import type { Home } from './home.ts';
import { withInternalSession, type InternalSession } from './postgres/internal-session.ts';
import type { FindLivePostgres } from './storage/types.ts';

export interface LiveTimelines {
  find: FindLivePostgres;
  /** The supervisor, noting on which timeline each compute is started. */
  watch(supervisor: Supervisor): Supervisor;
  /** Computes that were adopted were not started here: the rows say what they run on. */
  learn(catalog: Queryable, endpointIds: readonly string[]): Promise<void>;
}

interface Open {
  endpointId: string;
  major: number;
}

export function createLiveTimelines(home: Pick<Home, 'secrets'>): LiveTimelines {
  const open = new Map<string, Open>();
  let supervisor: Supervisor | undefined;
  let secret: Promise<string> | undefined;

  return {
    find: ({ timelineId }) => {
      const one = open.get(timelineId);
      const address = one && supervisor?.address(one.endpointId);
      if (!one || !address) return undefined;
      const inSession = async <T>(work: (session: InternalSession) => Promise<T>): Promise<T> => {
        secret ??= readFile(path.join(home.secrets, 'cloud-admin'), 'utf8').then((text) => text.trim());
        return withInternalSession({ ...address, database: 'postgres', major: one.major, secret: await secret }, work);
      };
      return {
        query: (sql) => supervisor!.query(one.endpointId, sql),
        session: (work) => inSession((session) => work((sql) => session.query(sql))),
      };
    },
    watch: (watched) => {
      supervisor = watched;
      return {
        ...watched,
        start: (spec, changes) => {
          if (spec.standby) return watched.start(spec, changes);
          // Noted before, because clones may come the moment it runs; until then it has no address.
          open.set(spec.timeline.timelineId, { endpointId: spec.endpointId, major: spec.pgVersion });
          return watched.start(spec, changes);
        },
        suspend: async (endpointId) => {
          const noted = [...open].filter(([, one]) => one.endpointId === endpointId);
          await watched.suspend(endpointId);
          // A start that waited for this suspend has made a note of its own.
          for (const [timelineId, one] of noted) if (open.get(timelineId) === one) open.delete(timelineId);
        },
      };
    },
    learn: async (catalog, endpointIds) => {
      for (const { id, timelineId, type, pgVersion } of await endpointsByIds(catalog, endpointIds)) {
        if (type === 'read_write') open.set(timelineId, { endpointId: id, major: pgVersion });
      }
    },
  };
}
