/**
 * The Postgres that tests run outside of a whole engine: the bundled one, as the private tree that the product makes of
 * it (the package alone lacks links, and may lie where other users cannot enter). One tree serves all test files of a
 * run, and vitest calls `teardown` when that has ended.
 */
import { chmod, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { silentLogger } from '../../src/lib/log.ts';
import { prepareExtensions } from '../../src/postgres/extensions.ts';
import { createInstallations } from '../../src/postgres/installations.ts';
import type { PostgresInstallation } from '../../src/postgres/types.ts';

export const BUNDLED_MAJOR = 17;

/** Workers are children of the process that runs setup and teardown: its pid names the run. */
const RUN = process.env['VITEST_WORKER_ID'] === undefined ? process.pid : process.ppid;
const TREES = path.join(os.tmpdir(), `ballast-test-trees-${RUN}`);

/** Throws when neither the package nor the system has the major. */
export async function testInstallation(major = BUNDLED_MAJOR): Promise<PostgresInstallation> {
  const installation = await createInstallations({
    home: { postgres: TREES },
    config: { postgresPackages: '/nonexistent' },
    logger: silentLogger(),
    prepareExtensions,
  }).get(major);
  await chmod(TREES, 0o755);
  return installation;
}

export async function teardown(): Promise<void> {
  await rm(TREES, { recursive: true, force: true });
}
