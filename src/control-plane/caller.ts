/**
 * Who is asking, as authentication found it. Rules about what a kind of key may do live in control-plane/access.ts.
 */
import type { ApiKeyKind } from '../catalog/types.ts';

export interface Caller {
  keyId: number;
  kind: ApiKeyKind;
  userId: string;
  /** The organization of organization and project keys. */
  orgId: string | null;
  /** The only project that a project key may touch. */
  projectId: string | null;
}
