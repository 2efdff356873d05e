/**
 * Snapshots: taken of root branches at their head or at a point of their history, renamed, given an expiration, deleted.
 * A snapshot is a timeline of its own and outlives its source. snapshot-restore.ts brings them back.
 */
import type {
  CreateSnapshotData,
  CreateSnapshotResponses,
  DeleteSnapshotResponses,
  ListSnapshotsResponses,
  SnapshotUpdateRequest,
  UpdateSnapshotResponses,
} from '@neon/sdk/raw';
import {
  countManualSnapshots,
  findSnapshot,
  insertSnapshot,
  isCloned,
  listSnapshots,
  markSnapshotDeleted,
  removalPayload,
  snapshotPayload,
  updateSnapshot,
} from '../catalog/snapshots.ts';
import type { BranchRow, Queryable, SnapshotRow, Timestamp } from '../catalog/types.ts';
import { AppError } from '../lib/errors.ts';
import { newSnapshotId } from '../lib/ids.ts';
import { parseTime, timeToMs } from '../lib/point.ts';
import type { Caller } from './caller.ts';
import { changeProject, readProject, type Context } from './context.ts';
import { conflictingOperations, invalidRequest, snapshotNotFound, unprocessable, withDetails } from './errors.ts';
import { LIMITS } from './limits.ts';
import { validateDisplayName } from './names.ts';
import { assertBranchable, branchOf, cloneSource, parsePoint, resolvePoint, type PointOf } from './points.ts';
import { presentOperation, presentSnapshot, presentTime } from './present.ts';

export type SnapshotQuery = NonNullable<CreateSnapshotData['query']>;

export interface Snapshots {
  list(caller: Caller, projectId: string): Promise<ListSnapshotsResponses[200]>;
  create(
    caller: Caller,
    projectId: string,
    branchId: string,
    query: SnapshotQuery,
  ): Promise<CreateSnapshotResponses[200]>;
  update(
    caller: Caller,
    projectId: string,
    id: string,
    body: SnapshotUpdateRequest,
  ): Promise<UpdateSnapshotResponses[200]>;
  delete(caller: Caller, projectId: string, id: string): Promise<DeleteSnapshotResponses[202]>;
}

/** Lower-case letters, digits and hyphens; begins with a letter, ends with none of the hyphens. */
const SLUG = /^[a-z]([a-z0-9-]{0,58}[a-z0-9])?$/;
const MAX_NAME = 256;

export function createSnapshots(context: Context): Snapshots {
  return {
    list: async (caller, projectId) => {
      await readProject(context, caller, projectId);
      return { snapshots: (await listSnapshots(context.catalog, projectId)).map(presentSnapshot) };
    },
    create: (caller, projectId, branchId, query) => create(context, caller, { projectId, branchId, query }),
    update: (caller, projectId, id, { snapshot: asked }) =>
      changeProject(context, caller, projectId, async (tx) => {
        const snapshot = await snapshotOf(tx, projectId, id);
        const row = await updateSnapshot(tx, snapshot.id, {
          name: asked.name === undefined ? snapshot.name : validateName(asked.name),
          expiresAt: asked.expires_at === undefined ? snapshot.expiresAt : expirationOf(context, asked.expires_at),
        });
        return { snapshot: presentSnapshot(row) };
      }),
    delete: (caller, projectId, id) =>
      changeProject(context, caller, projectId, async (tx) => {
        const snapshot = await snapshotOf(tx, projectId, id);
        if (await isCloned(tx, snapshot.timelineId)) throw conflictingOperations();
        await markSnapshotDeleted(tx, snapshot.id);
        const operations = await context.queue.append(tx, [
          {
            projectId,
            branchId: snapshot.sourceBranchId,
            action: 'delete_timeline',
            payload: removalPayload(snapshot),
          },
        ]);
        const now = context.now();
        return { operations: operations.map((operation) => presentOperation(operation, now)) };
      }),
  };
}

/** Throws 'not_found'. */
export async function snapshotOf(db: Queryable, projectId: string, id: string): Promise<SnapshotRow> {
  const snapshot = await findSnapshot(db, projectId, id);
  if (!snapshot) throw snapshotNotFound();
  return snapshot;
}

/** Throws 'unprocessable' for a branch that has a parent. */
export function assertRoot(branch: BranchRow): void {
  if (branch.parentId === null) return;
  throw unprocessable('snapshots can only be created from root branches', { branch_id: branch.id });
}

async function create(
  context: Context,
  caller: Caller,
  asked: { projectId: string; branchId: string; query: SnapshotQuery },
): Promise<CreateSnapshotResponses[200]> {
  const { projectId, branchId, query } = asked;
  const pointQuery = parsePoint({ lsn: query.lsn, time: query.timestamp }, { lsn: 'lsn', time: 'timestamp' });
  const expiresAt = expirationOf(context, query.expires_at);
  if (query.name !== undefined) validateName(query.name);
  if (query.slug !== undefined && !SLUG.test(query.slug)) {
    throw invalidRequest('slug is not valid', { slug: query.slug.slice(0, 100) });
  }
  const project = await readProject(context, caller, projectId);
  const branch = await branchOf(context.catalog, projectId, branchId);
  assertRoot(branch);
  assertBranchable(branch);
  await context.assertRoomForTimeline();
  const point = await resolvePoint(context, project, branch, pointQuery);
  return changeProject(context, caller, projectId, (tx) =>
    record(context, tx, caller, { projectId, branchId, query, expiresAt, point }),
  );
}

async function record(
  context: Context,
  tx: Queryable,
  caller: Caller,
  plan: {
    projectId: string;
    branchId: string;
    query: SnapshotQuery;
    expiresAt: Timestamp | null;
    point: PointOf | undefined;
  },
): Promise<CreateSnapshotResponses[200]> {
  const { projectId, branchId, query, expiresAt, point } = plan;
  const branch = await branchOf(tx, projectId, branchId);
  assertRoot(branch);
  assertBranchable(branch);
  const source = await cloneSource(tx, branch, point);
  if ((await countManualSnapshots(tx, projectId)) >= LIMITS.manualSnapshots) {
    throw unprocessable('snapshots limit exceeded', { max: LIMITS.manualSnapshots }, 'SNAPSHOTS_LIMIT_EXCEEDED');
  }
  const now = context.now();
  const slug = query.slug ?? null;
  if (slug !== null && (await findSnapshot(tx, projectId, slug))) {
    throw new AppError('conflict', withDetails('snapshot already exists', { slug }));
  }
  const snapshot = await insertSnapshot(tx, {
    id: newSnapshotId(),
    projectId,
    sourceBranchId: branchId,
    name: query.name ?? `${branch.name} ${presentTime(now.toISOString())}`,
    slug,
    manual: true,
    lsn: point?.lsn ?? null,
    pointTimestamp: point?.time ?? null,
    expiresAt,
    createdBy: caller.userId,
  });
  const operations = await context.queue.append(tx, [
    { projectId, branchId, action: 'create_branch', payload: snapshotPayload(snapshot, source) },
  ]);
  return {
    snapshot: presentSnapshot(snapshot),
    operations: operations.map((operation) => presentOperation(operation, now)),
  };
}

function validateName(name: string): string {
  if (name.length > MAX_NAME) throw invalidRequest('snapshot name is too long');
  return validateDisplayName('snapshot', name);
}

/** A snapshot may be kept for ever, and there is no longest time otherwise. */
function expirationOf(context: Context, asked: string | null | undefined): Timestamp | null {
  if (asked === undefined || asked === null) return null;
  const time = parseTime(asked);
  if (time === undefined) {
    throw invalidRequest('expires_at is not a time with a time zone', { expires_at: asked.slice(0, 100) });
  }
  if (timeToMs(time) <= context.now().getTime()) {
    throw invalidRequest('expires_at must be in the future', { expires_at: asked });
  }
  return time;
}
