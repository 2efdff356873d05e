/**
 * Measures how large the branches are that can have changed: those whose computes run.
 */
import { endpointsByIds, recordLogicalSize } from '../catalog/reconciling.ts';
import type { Queryable } from '../catalog/types.ts';
import type { Supervisor } from '../compute/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface MeasureSizesOptions {
  catalog: Queryable;
  supervisor: Pick<Supervisor, 'running' | 'timelineOf'>;
  storage: Pick<Storage, 'size'>;
}

export function measureSizes({ catalog, supervisor, storage }: MeasureSizesOptions): Reconciler {
  return {
    name: 'measure-sizes',
    everyMs: 60_000,
    run: async () => {
      for (const { id, projectId, branchId, timelineId, type, deleted } of await endpointsByIds(
        catalog,
        supervisor.running(),
      )) {
        if (deleted || type === 'read_only') continue;
        // It is about to move to other data.
        if (supervisor.timelineOf(id)?.timelineId !== timelineId) continue;
        const { logicalBytes } = await storage.size({ projectId, timelineId });
        await recordLogicalSize(catalog, branchId, logicalBytes);
      }
    },
  };
}
