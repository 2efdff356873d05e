/**
 * Many endpoints that sleep, as branches of one project. Made a batch at a time, so that only few computes run at once,
 * and by asking seldom, because asking is what would keep a busy machine busy.
 */
import type { CreateProjectBranchResponse } from '@neon/sdk/raw';
import { childPlace, type Place } from './api.ts';
import type { Ballast } from './ballast.ts';

const BATCH = 20;
const POLL_MS = 250;
const TIMEOUT_MS = 240_000;

/** Without copy-on-write each branch would be a copy of 40 MB. */
export const hasCheapBranches = Boolean(process.env['BALLAST_TEST_XFS_DIR']);

/** `whileAwake` is called once for each, while its compute runs. */
export async function createSleeping(
  { api }: Ballast,
  count: number,
  whileAwake: (places: readonly Place[]) => Promise<void> = async () => undefined,
): Promise<Place[]> {
  const parent = await api.createProject({ name: 'sleeping' });
  const settled = () => api.idle(parent.projectId, TIMEOUT_MS, POLL_MS);
  const suspend = (place: Place) => api.call('POST', `${api.endpointPath(place)}/suspend`);
  const all = [parent];
  await whileAwake([parent]);
  await suspend(parent);
  while (all.length < count) {
    const batch: Place[] = [];
    while (batch.length < BATCH && all.length + batch.length < count) {
      const created = await api.call<CreateProjectBranchResponse>('POST', `/projects/${parent.projectId}/branches`, {
        branch: { parent_id: parent.branchId },
        endpoints: [{ type: 'read_write' }],
      });
      batch.push(childPlace(parent, created));
    }
    await settled();
    await whileAwake(batch);
    for (const place of batch) await suspend(place);
    all.push(...batch);
  }
  await settled();
  return all;
}
