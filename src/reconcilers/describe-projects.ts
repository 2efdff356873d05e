/**
 * Keeps a description of each project beside its data, from which `ballast catalog rebuild` restores a lost catalog.
 */
import { createHash } from 'node:crypto';
import { catalogNow, describeProject, projectTables, touchedProjects } from '../catalog/descriptions.ts';
import type { Queryable } from '../catalog/types.ts';
import type { Storage } from '../storage/types.ts';
import type { Reconciler } from './reconciler.ts';

export interface DescribeProjectsOptions {
  catalog: Queryable;
  storage: Pick<Storage, 'describeProject'>;
  nodeId: string;
}

/** Transactions that were under way at the last look may have an earlier time. */
const OVERLAP_MS = 30_000;
/** So often all projects are described, whether anything tells that they changed or not: what was removed does not. */
const ALL_EVERY_RUNS = 20;

export function describeProjects({ catalog, storage, nodeId }: DescribeProjectsOptions): Reconciler {
  const written = new Map<string, string>();
  let since: string | undefined;
  let runs = 0;
  return {
    name: 'describe-projects',
    everyMs: 3_000,
    run: async () => {
      const now = await catalogNow(catalog);
      const all = runs % ALL_EVERY_RUNS === 0;
      runs += 1;
      const touched = await touchedProjects(catalog, nodeId, all ? undefined : since);
      const tables = touched.length > 0 ? await projectTables(catalog) : [];
      for (const projectId of touched) {
        const text = await describeProject(catalog, projectId, tables);
        if (text === undefined) continue;
        const hash = createHash('sha256').update(text).digest('base64');
        if (written.get(projectId) === hash) continue;
        if (await storage.describeProject(projectId, text)) written.set(projectId, hash);
      }
      since = new Date(Date.parse(now) - OVERLAP_MS).toISOString();
    },
  };
}
