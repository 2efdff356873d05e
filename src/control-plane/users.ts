/**
 * The user behind a key, what kind of key it is, and the regions that there are.
 */
import type {
  ActiveRegionsResponse,
  AuthDetailsResponse,
  CurrentUserInfoResponse,
  GetCurrentUserOrganizationsResponses,
} from '@neon/sdk/raw';
import { listOrganizations } from '../catalog/organizations.ts';
import { findUser } from '../catalog/users.ts';
import { assertPersonalKey } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { LIMITS } from './limits.ts';
import { presentOrganization } from './present.ts';

export interface Users {
  me(caller: Caller): Promise<CurrentUserInfoResponse>;
  organizations(caller: Caller): Promise<GetCurrentUserOrganizationsResponses[200]>;
  auth(caller: Caller): AuthDetailsResponse;
  regions(caller: Caller): ActiveRegionsResponse;
}

const UNLIMITED = -1;

/** The region of projects that name none: this machine. */
export const OWN_REGION = 'local';

export function createUsers(context: Context): Users {
  return {
    me: async (caller) => {
      assertPersonalKey(caller);
      const user = await findUser(context.catalog, caller.userId);
      if (!user) throw new Error(`API key ${caller.keyId} has no user`);
      return {
        active_seconds_limit: UNLIMITED,
        auth_accounts: [],
        email: user.email,
        id: user.id,
        image: '',
        login: user.email,
        name: user.name,
        last_name: user.lastName,
        projects_limit: LIMITS.projects,
        branches_limit: LIMITS.branchesPerProject,
        max_autoscaling_limit: LIMITS.maxComputeUnits,
        plan: 'scale',
      };
    },
    organizations: async (caller) => {
      assertPersonalKey(caller);
      return { organizations: (await listOrganizations(context.catalog)).map(presentOrganization) };
    },
    auth: (caller) => {
      const ofUser = caller.kind === 'personal';
      return {
        account_id: ofUser ? caller.userId : (caller.orgId ?? caller.userId),
        auth_method: ofUser ? 'api_key_user' : 'api_key_org',
      };
    },
    regions: (caller) => {
      assertPersonalKey(caller);
      return {
        regions: [{ region_id: OWN_REGION, name: 'This machine', default: true, geo_lat: '0', geo_long: '0' }],
      };
    },
  };
}
