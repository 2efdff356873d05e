/** Vitest's global setup of the acceptance tests: they run the built product, so it must be up to date. */
import { ensureBuilt } from './setup.mjs';

export async function setup() {
  await ensureBuilt();
}
