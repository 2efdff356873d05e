/**
 * The Postgres that tests run outside of a whole engine: the bundled one, as the private tree that the product makes of
 * it (the package alone lacks links, and may lie where other users cannot enter). One tree serves all test files of a
 * run; `teardown` is called by vitest when the run has ended.
 */
import { chmod, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { silentLogger } from '../../src/lib/log.ts';
import { prepareExtensions } from '../../src/postgres/extensions.ts';
import { createInstallations } from '../../src/postgres/installations.ts';
import type { PostgresInstallation } from '../../src/postgres/types.ts';

export const BUNDLED_MAJOR = 17;

const TREES = path.join(
  os.tmpdir(),
  `ballast-test-trees-${process.getuid?.() ?? 0}-${process.env['BALLAST_TEST_RUN'] ?? 'alone'}`,
);

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

/** Names the run before its workers start, so that runs beside each other do not share (and remove) a tree. */
export function setup(): void {
  process.env['BALLAST_TEST_RUN'] = String(process.pid);
}

export async function teardown(): Promise<void> {
  await rm(TREES.replace(/alone$/, String(process.pid)), { recursive: true, force: true });
}
