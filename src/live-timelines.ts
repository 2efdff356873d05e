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
  /** Computes that were adopted were not started here. */
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
      const suspend = async (endpointId: string): Promise<void> => {
        const noted = [...open].filter(([, one]) => one.endpointId === endpointId);
        await watched.suspend(endpointId);
        // A start that waited for this suspend has made a note of its own.
        for (const [timelineId, one] of noted) if (open.get(timelineId) === one) open.delete(timelineId);
      };
      return {
        ...watched,
        start: async (spec, changes, stopwatch) => {
          if (spec.standby) return watched.start(spec, changes, stopwatch);
          const { endpointId, timeline } = spec;
          const noted = [...open].some(([id, one]) => one.endpointId === endpointId && id !== timeline.timelineId);
          // Its endpoint got other data: the note must go before the compute has an address again.
          if (noted) await suspend(endpointId);
          // Noted before, because clones may come the moment it runs; until then it has no address.
          open.set(timeline.timelineId, { endpointId, major: spec.pgVersion });
          return watched.start(spec, changes, stopwatch);
        },
        suspend,
      };
    },
    learn: async (catalog, endpointIds) => {
      for (const { id, type, pgVersion } of await endpointsByIds(catalog, endpointIds)) {
        // Not the timeline of the row: its endpoint may have moved, with the operations for that still to come.
        const timelineId = supervisor?.timelineOf(id)?.timelineId;
        if (type === 'read_write' && timelineId !== undefined)
          open.set(timelineId, { endpointId: id, major: pgVersion });
      }
    },
  };
}
