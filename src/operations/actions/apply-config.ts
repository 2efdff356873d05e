/**
 * apply_config: pending roles and databases of a branch, and changed settings of its compute.
 *
 * A compute that sleeps is started for it; the suspend_compute that was appended behind puts it back to sleep. A branch
 * without a read-write endpoint keeps its pending rows until the first start.
 */
import {
  computeWork,
  computeWorkOfBranch,
  endpointActive,
  endpointIs,
  settlePending,
} from '../../catalog/transitions.ts';
import type { Action } from '../types.ts';
import { branchOf, type ActionContext } from './context.ts';
import { startWith } from './start-compute.ts';

export function applyConfig(context: ActionContext): Action {
  const { catalog, supervisor } = context;
  return {
    run: async (operation) => {
      const branchId = branchOf(operation);
      const work =
        operation.endpointId === null
          ? await computeWorkOfBranch(catalog, branchId)
          : await computeWork(catalog, operation.endpointId);
      if (!work) return { skip: true };
      await startWith(context, work);
      return {
        transition: async (tx) => {
          if (work.type === 'read_write') await settlePending(tx, branchId, work);
          await endpointActive(tx, work.endpointId);
        },
      };
    },
    // The rows stay pending: the next start or apply_config tries them again.
    undo: async (operation) => {
      const { endpointId } = operation;
      if (endpointId === null) return;
      const state = supervisor.address(endpointId) ? 'active' : 'idle';
      return { transition: (tx) => endpointIs(tx, endpointId, state) };
    },
  };
}
