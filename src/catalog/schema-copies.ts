/**
 * What copying the schema of a branch needs to know of both branches.
 */
import type { PendingDatabase, PendingRole } from './transitions.ts';
import type { Queryable } from './types.ts';

/** Part of the payload of `apply_schema_from_branch`, written by the control plane. */
export interface SchemaCopyPayload {
  sourceBranchId: string;
  sourceTimelineId: string;
  /** A point of its past; without it the head. */
  lsn?: string;
  /** The branch begins its life archived. */
  archived?: boolean;
}

export interface SchemaCopyWork {
  /** The read-write endpoint of the source; null: it has none. */
  endpointId: string | null;
  minCu: number | null;
  maxCu: number | null;
  /** Of the new branch, not `ready` ones only. */
  roles: PendingRole[];
  databases: PendingDatabase[];
}

export async function schemaCopyWork(db: Queryable, branchId: string, sourceBranchId: string): Promise<SchemaCopyWork> {
  const [row] = await db.query<SchemaCopyWork>(
    `select e.id as endpoint_id, e.autoscaling_limit_min_cu as min_cu, e.autoscaling_limit_max_cu as max_cu,
       (select coalesce(jsonb_agg(jsonb_build_object('name', r.name, 'state', r.state, 'verifier', r.verifier,
           'noLogin', r.no_login) order by r.created_at, r.name), '[]')
         from roles r where r.branch_id = $1 and r.state <> 'ready') as roles,
       (select coalesce(jsonb_agg(jsonb_build_object('id', d.id, 'name', d.name, 'ownerName', d.owner_name,
           'state', d.state, 'appliedName', d.applied_name) order by d.id), '[]')
         from databases d where d.branch_id = $1 and d.state <> 'ready') as databases
     from (select 1) as one
     left join endpoints e on e.branch_id = $2 and e.type = 'read_write' and e.deleted_at is null`,
    [branchId, sourceBranchId],
  );
  return row!;
}
