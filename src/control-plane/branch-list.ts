/**
 * Pages of branches. A cursor is base64 of `{branch_id, sort_by, sort_by_value, sort_order}`: where the page before
 * ended, so that branches which come or go meanwhile are neither repeated nor skipped.
 */
import type { ListProjectBranchesData, ListProjectBranchesResponses } from '@neon/sdk/raw';
import { listBranches as queryBranches, type BranchSortColumn } from '../catalog/branches.ts';
import type { BranchRow, Queryable } from '../catalog/types.ts';
import { invalidRequest } from './errors.ts';
import { presentAnnotation, presentBranch } from './present.ts';

export type BranchListQuery = NonNullable<ListProjectBranchesData['query']>;
export type BranchListAnswer = ListProjectBranchesResponses[200];

interface Cursor {
  branch_id: string;
  sort_by: BranchSortColumn;
  sort_by_value: string;
  sort_order: 'ASC' | 'DESC';
}

const DEFAULT_LIMIT = 10_000;

export async function listBranches(
  db: Queryable,
  projectId: string,
  query: BranchListQuery,
): Promise<BranchListAnswer> {
  const cursor = query.cursor ? parseCursor(query.cursor) : undefined;
  const sortBy = cursor?.sort_by ?? query.sort_by ?? 'updated_at';
  const order = cursor?.sort_order ?? (query.sort_order === 'asc' ? 'ASC' : 'DESC');
  const limit = query.limit ?? DEFAULT_LIMIT;
  // One more than asked for tells whether there is another page.
  const rows = await queryBranches(db, projectId, {
    search: query.search || undefined,
    sortBy,
    descending: order === 'DESC',
    after: cursor && { id: cursor.branch_id, value: cursor.sort_by_value },
    limit: limit + 1,
    includeDeleted: query.include_deleted === true,
  });
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    branches: page.map(presentBranch),
    annotations: Object.fromEntries(
      page.filter((row) => row.annotation !== null).map((row) => [row.id, presentAnnotation(row)]),
    ),
    pagination: {
      ...(last && rows.length > limit && { next: formatCursor(last, sortBy, order) }),
      sort_by: sortBy,
      sort_order: order,
    },
  };
}

function formatCursor(row: BranchRow, sortBy: BranchSortColumn, order: 'ASC' | 'DESC'): string {
  const value = { name: row.name, created_at: row.createdAt, updated_at: row.updatedAt }[sortBy];
  const cursor: Cursor = { branch_id: row.id, sort_by: sortBy, sort_by_value: value, sort_order: order };
  return Buffer.from(JSON.stringify(cursor), 'utf8').toString('base64');
}

function parseCursor(text: string): Cursor {
  let parsed: Partial<Cursor> | null;
  try {
    parsed = JSON.parse(Buffer.from(text, 'base64').toString('utf8')) as Partial<Cursor> | null;
  } catch {
    throw invalidRequest('cursor is not valid');
  }
  const { branch_id: id, sort_by: sortBy, sort_by_value: value, sort_order: order } = parsed ?? {};
  const known = sortBy === 'name' || sortBy === 'created_at' || sortBy === 'updated_at';
  if (!known || (order !== 'ASC' && order !== 'DESC') || typeof id !== 'string' || typeof value !== 'string') {
    throw invalidRequest('cursor is not valid');
  }
  if (sortBy !== 'name' && !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$/.test(value)) {
    throw invalidRequest('cursor is not valid');
  }
  if (id.includes('\0') || value.includes('\0')) throw invalidRequest('cursor is not valid');
  return { branch_id: id, sort_by: sortBy, sort_by_value: value, sort_order: order };
}
