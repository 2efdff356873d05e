/**
 * Organizations. Every user is an administrator of every organization: there is one of each unless somebody adds more
 * to the catalog. A member's id is the user's.
 */
import type { GetOrganizationMembersResponses, Member, Organization } from '@neon/sdk/raw';
import { findOrganization } from '../catalog/organizations.ts';
import type { OrganizationRow, UserRow } from '../catalog/types.ts';
import { findUser, listUsers } from '../catalog/users.ts';
import { assertOrganizationInReach } from './access.ts';
import type { Caller } from './caller.ts';
import type { Context } from './context.ts';
import { memberNotFound, organizationNotFound } from './errors.ts';
import { presentOrganization, presentTime } from './present.ts';

export interface Organizations {
  get(caller: Caller, orgId: string): Promise<Organization>;
  members(
    caller: Caller,
    orgId: string,
    query: { sort_by?: string; sort_order?: string; limit?: number },
  ): Promise<GetOrganizationMembersResponses[200]>;
  member(caller: Caller, orgId: string, memberId: string): Promise<Member>;
}

export function createOrganizations(context: Context): Organizations {
  const read = async (caller: Caller, orgId: string): Promise<OrganizationRow> => {
    assertOrganizationInReach(caller, orgId);
    const organization = await findOrganization(context.catalog, orgId);
    if (!organization) throw organizationNotFound();
    return organization;
  };
  return {
    get: async (caller, orgId) => presentOrganization(await read(caller, orgId)),
    members: async (caller, orgId, query) => {
      const organization = await read(caller, orgId);
      const users = await listUsers(context.catalog);
      const sorted = query.sort_by === 'email' ? users.toSorted((a, b) => (a.email < b.email ? -1 : 1)) : users;
      const ordered = query.sort_order === 'asc' ? sorted : sorted.toReversed();
      return {
        members: ordered
          .slice(0, query.limit)
          .map((user) => ({ member: presentMember(user, organization), user: { email: user.email } })),
      };
    },
    member: async (caller, orgId, memberId) => {
      const organization = await read(caller, orgId);
      const user = isUuid(memberId) ? await findUser(context.catalog, memberId) : undefined;
      if (!user) throw memberNotFound();
      return presentMember(user, organization);
    },
  };
}

function presentMember(user: UserRow, organization: OrganizationRow): Member {
  return {
    id: user.id,
    user_id: user.id,
    org_id: organization.id,
    role: 'admin',
    joined_at: presentTime(user.createdAt),
  };
}

function isUuid(text: string): boolean {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text);
}
