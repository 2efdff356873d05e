/**
 * sync_dbs_and_roles_from_compute: brings into the rows what SQL changed inside Postgres.
 *
 * It is an operation, and not a mere write, because it must not run beside an apply_config of the same branch: facts
 * that were read before a change would undo its rows.
 */
import { computeWork, recordFacts } from '../../catalog/transitions.ts';
import type { Action } from '../types.ts';
import { endpointOf, type ActionContext } from './context.ts';

export function syncDbsAndRolesFromCompute({ catalog, supervisor, syncedFingerprints }: ActionContext): Action {
  return {
    run: async (operation) => {
      const endpointId = endpointOf(operation);
      const work = supervisor.address(endpointId) ? await computeWork(catalog, endpointId) : undefined;
      // Asleep: the suspend has synced already. A read replica has nothing of its own to tell.
      if (work?.type !== 'read_write') return { skip: true };
      const facts = await supervisor.rolesAndDatabases(endpointId);
      return {
        transition: async (tx) => {
          await recordFacts(tx, work, facts);
          syncedFingerprints.set(endpointId, facts.fingerprint);
        },
      };
    },
    undo: async () => undefined,
  };
}
