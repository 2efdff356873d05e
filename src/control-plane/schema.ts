/**
 * Schemas of databases: as SQL or as a listing, now or at a point of the branch's history, and how those of two branches
 * differ. Reading happens in the engine and wakes nobody's endpoint.
 */
import type {
  GetProjectBranchSchemaComparisonData,
  GetProjectBranchSchemaComparisonResponses,
  GetProjectBranchSchemaData,
  GetProjectBranchSchemaResponses,
} from '@neon/sdk/raw';
import { findDatabase } from '../catalog/databases.ts';
import { listBranchEndpoints } from '../catalog/endpoints.ts';
import type { BranchRow, ProjectRow } from '../catalog/types.ts';
import type { PointQuery } from '../lib/point.ts';
import { diffSchemas } from '../postgres/schema-diff.ts';
import type { Caller } from './caller.ts';
import { readProject, type Context, type SchemaSource } from './context.ts';
import { databaseNotFound, invalidRequest, unprocessable } from './errors.ts';
import { branchOf, parsePoint } from './points.ts';

type SchemaQuery = GetProjectBranchSchemaData['query'];
type ComparisonQuery = GetProjectBranchSchemaComparisonData['query'];

export interface Schemas {
  get(
    caller: Caller,
    projectId: string,
    branchId: string,
    query: SchemaQuery,
  ): Promise<GetProjectBranchSchemaResponses[200]>;
  compare(
    caller: Caller,
    projectId: string,
    branchId: string,
    query: ComparisonQuery,
  ): Promise<GetProjectBranchSchemaComparisonResponses[200]>;
}

const POINT_FIELDS = { lsn: 'lsn', time: 'timestamp' };
const BASE_POINT_FIELDS = { lsn: 'base_lsn', time: 'base_timestamp' };

export function createSchemas(context: Context): Schemas {
  return {
    get: async (caller, projectId, branchId, query) => {
      const format = query.format || 'sql';
      if (format !== 'sql' && format !== 'json') {
        throw invalidRequest('format must be sql or json', { format: format.slice(0, 100) });
      }
      const point = parsePoint({ lsn: query.lsn, time: query.timestamp }, POINT_FIELDS);
      const project = await readProject(context, caller, projectId);
      const branch = await branchOf(context.catalog, projectId, branchId);
      const source = await sourceOf(context, { project, branch, point, database: query.db_name });
      return format === 'json' ? { json: await context.listSchema(source) } : { sql: await context.dumpSchema(source) };
    },
    compare: async (caller, projectId, branchId, query) => {
      const point = parsePoint({ lsn: query.lsn, time: query.timestamp }, POINT_FIELDS);
      const basePoint = parsePoint({ lsn: query.base_lsn, time: query.base_timestamp }, BASE_POINT_FIELDS);
      const project = await readProject(context, caller, projectId);
      const branch = await branchOf(context.catalog, projectId, branchId);
      const baseId = query.base_branch_id || branch.parentId;
      if (baseId === null) throw invalidRequest('base_branch_id is required: the branch has no parent');
      const base = await branchOf(context.catalog, projectId, baseId);
      const database = query.db_name;
      const sources = await Promise.all([
        sourceOf(context, { project, branch: base, point: basePoint, database }),
        sourceOf(context, { project, branch, point, database }),
      ]);
      const [before, after] = await Promise.all(sources.map((source) => context.dumpSchema(source)));
      return { diff: await diffSchemas(database, sameServer(before!, after!), after!) };
    },
  };
}

/** Throws 'not_found', and 'unprocessable' for a branch without data. */
async function sourceOf(
  context: Context,
  asked: { project: ProjectRow; branch: BranchRow; point: PointQuery; database: string },
): Promise<SchemaSource> {
  const { project, branch, point, database } = asked;
  if (branch.currentState === 'init') throw unprocessable('branch not ready yet');
  // What the past had only the past knows.
  if (point.kind === 'head' && !(await findDatabase(context.catalog, branch.id, database))) throw databaseNotFound();
  const endpoints = await listBranchEndpoints(context.catalog, branch.id);
  const primary = endpoints.find(({ type }) => type === 'read_write');
  const nowMs = context.now().getTime();
  return {
    projectId: project.id,
    projectNumber: project.number,
    pgVersion: project.pgVersion,
    timelineId: branch.timelineId,
    endpointId: primary?.id ?? null,
    ...(primary && { size: { minCu: primary.autoscalingLimitMinCu, maxCu: primary.autoscalingLimitMaxCu } }),
    point,
    window: { startMs: nowMs - project.historyRetentionSeconds * 1_000, nowMs },
    database,
  };
}

const SERVER_LINE = /^-- Dumped from database version .*$/m;

/** Two builds of one major do not make two schemas differ. */
function sameServer(base: string, target: string): string {
  const line = SERVER_LINE.exec(target)?.[0];
  return line === undefined ? base : base.replace(SERVER_LINE, () => line);
}
