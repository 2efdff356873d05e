/**
 * Reading operations. Clients poll these many times a second, so lookups of many readers are gathered.
 */
import type { GetProjectOperationResponses, ListProjectOperationsResponses } from '@neon/sdk/raw';
import { listOperations } from '../catalog/operations.ts';
import type { Caller } from './caller.ts';
import { readProject, type Context } from './context.ts';
import { invalidRequest, operationNotFound } from './errors.ts';
import { presentOperation } from './present.ts';

export interface Operations {
  get(caller: Caller, projectId: string, id: string): Promise<GetProjectOperationResponses[200]>;
  list(
    caller: Caller,
    projectId: string,
    query: { cursor?: string | undefined; limit?: number | undefined },
  ): Promise<ListProjectOperationsResponses[200]>;
}

const DEFAULT_LIMIT = 1000;

export function createOperations(context: Context): Operations {
  return {
    get: async (caller, projectId, id) => {
      // Both at once: what the caller may not see is not looked at.
      const [, row] = await Promise.all([
        readProject(context, caller, projectId),
        isUuid(id) ? context.findOperation(id.toLowerCase()) : undefined,
      ]);
      if (row?.projectId !== projectId) throw operationNotFound();
      return { operation: presentOperation(row, context.now()) };
    },
    list: async (caller, projectId, query) => {
      await readProject(context, caller, projectId);
      const rows = await listOperations(context.catalog, {
        projectId,
        limit: query.limit ?? DEFAULT_LIMIT,
        before: query.cursor === undefined ? undefined : parseCursor(query.cursor),
      });
      const last = rows.at(-1);
      const now = context.now();
      return {
        operations: rows.map((row) => presentOperation(row, now)),
        // The cursor keeps the microseconds that times in answers leave out.
        ...(last && { pagination: { cursor: last.createdAt } }),
      };
    },
  };
}

function parseCursor(cursor: string): string {
  if (/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/.test(cursor) && !Number.isNaN(Date.parse(cursor))) {
    return cursor;
  }
  throw invalidRequest('cursor is not valid');
}

function isUuid(text: string): boolean {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i.test(text);
}
