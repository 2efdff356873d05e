/**
 * The table of actions. One file each; adding one means a line here and in the type OperationAction.
 */
import type { OperationAction } from '../../catalog/types.ts';
import type { Action } from '../types.ts';
import { applyConfig } from './apply-config.ts';
import { applySchemaFromBranch } from './apply-schema-from-branch.ts';
import type { ActionContext } from './context.ts';
import { createBranch } from './create-branch.ts';
import { createTimeline } from './create-timeline.ts';
import { deleteTimeline } from './delete-timeline.ts';
import { startCompute } from './start-compute.ts';
import { suspendCompute } from './suspend-compute.ts';
import { syncDbsAndRolesFromCompute } from './sync-dbs-and-roles-from-compute.ts';

export function createActions(context: ActionContext): Record<OperationAction, Action> {
  return {
    create_timeline: createTimeline(context),
    create_branch: createBranch(context),
    delete_timeline: deleteTimeline(context),
    start_compute: startCompute(context),
    suspend_compute: suspendCompute(context),
    apply_config: applyConfig(context),
    apply_schema_from_branch: applySchemaFromBranch(context),
    sync_dbs_and_roles_from_compute: syncDbsAndRolesFromCompute(context),
  };
}
