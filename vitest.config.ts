/**
 * Five projects, from cheap to dear: `unit` (pure), `pg` (needs Postgres), `contract` (the API against its document),
 * `acceptance` (the built product from outside, with unmodified clients), `conformance` (drivers through the built
 * product, beside plain Postgres). One alone: `npm test -- --project unit`.
 * At most two files run at a time: each may run several Postgres, and the smallest machine that must do has two cores.
 */
import { defineConfig, type TestProjectConfiguration } from 'vitest/config';

const SECOND = 1000;

/** Needs a kernel that `npm test` cannot count on: scripts/with-cgroups.sh brings one. */
const CGROUP: TestProjectConfiguration = {
  extends: true,
  test: {
    name: 'cgroup',
    include: ['src/**/*.cgroup.test.ts'],
    globalSetup: ['./test/support/installation.ts'],
    testTimeout: 240 * SECOND,
    hookTimeout: 240 * SECOND,
  },
};

export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    // A condition that is waited for comes late on a busy machine; one second is the default.
    expect: { poll: { timeout: 60 * SECOND } },
    // CI machines are shared: what fails there runs once more, and the report says that it did.
    retry: process.env['BALLAST_CI'] === '1' ? 1 : 0,
    // Names the tests that were skipped; with BALLAST_CI=1 they count as failures.
    reporters: ['default', './scripts/summary-reporter.mjs'],
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'scripts/**/*.test.mjs'],
          exclude: ['src/**/*.pg.test.ts', 'src/**/*.cgroup.test.ts'],
          testTimeout: 60 * SECOND,
        },
      },
      {
        extends: true,
        test: {
          name: 'pg',
          include: ['src/**/*.pg.test.ts'],
          globalSetup: ['./test/support/installation.ts'],
          testTimeout: 300 * SECOND,
          hookTimeout: 300 * SECOND,
        },
      },
      ...(process.env['BALLAST_TEST_CGROUPS'] === '1' ? [CGROUP] : []),
      {
        extends: true,
        test: {
          name: 'contract',
          include: ['test/contract/**/*.test.ts'],
          globalSetup: ['./test/support/installation.ts'],
          testTimeout: 180 * SECOND,
          hookTimeout: 180 * SECOND,
        },
      },
      {
        extends: true,
        test: {
          name: 'acceptance',
          include: ['test/acceptance/**/*.test.ts'],
          globalSetup: ['./scripts/built.mjs'],
          testTimeout: 300 * SECOND,
          hookTimeout: 300 * SECOND,
        },
      },
      {
        extends: true,
        test: {
          name: 'conformance',
          include: ['test/conformance/**/*.test.ts'],
          globalSetup: ['./scripts/built.mjs', './test/support/installation.ts'],
          testTimeout: 300 * SECOND,
          hookTimeout: 300 * SECOND,
        },
      },
    ],
  },
});
