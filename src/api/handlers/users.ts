/**
 * Handlers of the tags "Users", "Organizations" and "Region".
 */
import type {
  GetActiveRegionsData,
  GetActiveRegionsResponses,
  GetAuthDetailsData,
  GetAuthDetailsResponses,
  GetCurrentUserInfoData,
  GetCurrentUserInfoResponses,
  GetCurrentUserOrganizationsData,
  GetCurrentUserOrganizationsResponses,
  GetOrganizationData,
  GetOrganizationMemberData,
  GetOrganizationMemberResponses,
  GetOrganizationMembersData,
  GetOrganizationMembersResponses,
  GetOrganizationResponses,
} from '@neon/sdk/raw';
import { handler, type HandlerTable } from '../handler.ts';

export const usersHandlers: HandlerTable = {
  getCurrentUserInfo: handler<GetCurrentUserInfoData, GetCurrentUserInfoResponses[200]>((plane, { caller }) =>
    plane.users.me(caller),
  ),
  getCurrentUserOrganizations: handler<GetCurrentUserOrganizationsData, GetCurrentUserOrganizationsResponses[200]>(
    (plane, { caller }) => plane.users.organizations(caller),
  ),
  getAuthDetails: handler<GetAuthDetailsData, GetAuthDetailsResponses[200]>(async (plane, { caller }) =>
    plane.users.auth(caller),
  ),
  getActiveRegions: handler<GetActiveRegionsData, GetActiveRegionsResponses[200]>(async (plane, { caller }) =>
    plane.users.regions(caller),
  ),
  getOrganization: handler<GetOrganizationData, GetOrganizationResponses[200]>((plane, { caller, params }) =>
    plane.organizations.get(caller, params.org_id),
  ),
  getOrganizationMembers: handler<GetOrganizationMembersData, GetOrganizationMembersResponses[200]>(
    (plane, { caller, params, query }) => plane.organizations.members(caller, params.org_id, query),
  ),
  getOrganizationMember: handler<GetOrganizationMemberData, GetOrganizationMemberResponses[200]>(
    (plane, { caller, params }) => plane.organizations.member(caller, params.org_id, params.member_id),
  ),
};
