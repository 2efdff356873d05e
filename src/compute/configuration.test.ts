import { describe, expect, test } from 'vitest';
import type { ConfigurationInput } from './configuration.ts';
import { configurationFiles, postgresqlConf } from './configuration.ts';
import { maxConnections } from './sizes.ts';
import type { ComputeSpec } from './types.ts';

const GIB = 1024 ** 3;

function input(spec: Partial<ComputeSpec> = {}, overrides: Partial<ConfigurationInput> = {}): ConfigurationInput {
  return {
    spec: {
      endpointId: 'ep-test',
      timeline: { projectId: 'p', timelineId: 'b' },
      pgVersion: 17,
      owner: undefined,
      minCu: 0.25,
      maxCu: 0.25,
      pgSettings: {},
      preloadLibraries: [],
      logicalReplication: false,
      ...spec,
    },
    socketDirectory: '/run/ep-test',
    archiveCommand: `cp %p '/pool/it''s/%f'`,
    hostMemoryBytes: 64 * GIB,
    phase: 'running',
    subscriptionWorkers: true,
    recoveryTimelineId: null,
    jwt: { key: Buffer.alloc(32, 1), user: 'me' },
    ...overrides,
  };
}

/** What Postgres would make of the file: the last line of a name wins. */
function effective(conf: string): Record<string, string> {
  const lines = conf.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const entries = lines.map((line): [string, string] => {
    const match = /^([a-z0-9_.]+) = '(.*)'$/.exec(line);
    if (!match) throw new Error(`not a setting: ${line}`);
    return [match[1]!, match[2]!.replaceAll("''", "'").replaceAll('\\\\', '\\')];
  });
  return Object.fromEntries(entries);
}

describe('max_connections', () => {
  test.each([
    [0.25, 0.25, 104],
    [0.25, 2, 839],
    [0.25, 8, 839],
    [0.5, 0.5, 209],
    [1, 1, 419],
    [2, 8, 3357],
    [8, 8, 3357],
    [9, 9, 4000],
    [56, 56, 4000],
    [1.5, 1.5, 419],
  ])('%d to %d compute units: %d', (minCu, maxCu, connections) => {
    expect(maxConnections(minCu, maxCu)).toBe(connections);
  });
});

describe('postgresql.conf', () => {
  test('memory follows compute units and never promises more than the host has', () => {
    expect(effective(postgresqlConf(input()))).toMatchObject({ shared_buffers: '32MB', maintenance_work_mem: '64MB' });
    expect(effective(postgresqlConf(input({ maxCu: 8 })))['shared_buffers']).toBe('1024MB');
    const small = effective(postgresqlConf(input({ maxCu: 56 }, { hostMemoryBytes: 2 * GIB })));
    expect(small).toMatchObject({ shared_buffers: '64MB', effective_cache_size: '1536MB' });
  });

  test('pg_settings overrule defaults but nothing that is pinned, in whatever case', () => {
    const conf = effective(
      postgresqlConf(
        input({
          pgSettings: {
            work_mem: '64MB',
            JIT: 'on',
            fsync: 'off',
            Archive_Command: 'rm -rf /',
            listen_addresses: '*',
            shared_preload_libraries: 'evil',
            'auto_explain.log_min_duration': '1s',
          },
        }),
      ),
    );
    expect(conf).toMatchObject({
      work_mem: '64MB',
      jit: 'on',
      fsync: 'on',
      archive_command: `cp %p '/pool/it''s/%f'`,
      listen_addresses: '',
      shared_preload_libraries: '',
      'auto_explain.log_min_duration': '1s',
    });
  });

  test.each([
    ['a quote', { work_mem: `1MB' injected = '` }, `1MB' injected = '`],
    ['a backslash', { work_mem: `\\'; x` }, `\\'; x`],
  ])('%s in a value stays in the value', (_what, pgSettings, value) => {
    expect(effective(postgresqlConf(input({ pgSettings })))['work_mem']).toBe(value);
  });

  test.each([
    { 'work_mem\nfsync': 'off' },
    { include: '/etc/passwd' },
    { include_if_exists: 'x' },
    { 'work mem': '1' },
    { work_mem: '1MB\nfsync = off' },
    { work_mem: '1\0' },
  ])('refuses %j', (pgSettings) => {
    expect(() => postgresqlConf(input({ pgSettings: pgSettings as unknown as Record<string, string> }))).toThrow(
      /invalid value/,
    );
  });

  test('only listed libraries are preloaded', () => {
    const conf = (preloadLibraries: string[]) => postgresqlConf(input({ preloadLibraries }));
    expect(effective(conf(['pg_stat_statements']))['shared_preload_libraries']).toBe('pg_stat_statements');
    expect(() => conf(['basic_archive'])).toThrow(/cannot be preloaded/);
    expect(() => conf(['pg_stat_statements,evil'])).toThrow(/cannot be preloaded/);
  });

  test('recovery runs without fsync, and clones that may hold subscriptions without workers', () => {
    expect(effective(postgresqlConf(input({}, { phase: 'recovery', subscriptionWorkers: false })))).toMatchObject({
      fsync: 'off',
      max_logical_replication_workers: '0',
    });
    expect(effective(postgresqlConf(input()))).toMatchObject({ fsync: 'on', max_logical_replication_workers: '4' });
    expect(effective(postgresqlConf(input({ pgVersion: 15 })))['max_logical_replication_workers']).toBe('0');
  });

  test('each major gets only what it knows', () => {
    const of = (pgVersion: number) => effective(postgresqlConf(input({ pgVersion })));
    for (const name of ['archive_library', 'allow_alter_system', 'io_method']) expect(of(14)).not.toHaveProperty(name);
    expect(of(17)).toHaveProperty('allow_alter_system', 'off');
    expect(of(18)).toHaveProperty('io_method', 'sync');
    expect(effective(postgresqlConf(input({ logicalReplication: true })))['wal_level']).toBe('logical');
  });
});

test('pg_hba.conf has no way in but the socket with a secret', () => {
  const lines = configurationFiles(input())['pg_hba.conf']!.trim().split('\n');
  expect(lines).toEqual([
    'local replication cloud_admin scram-sha-256',
    'local replication all reject',
    'local all all scram-sha-256',
  ]);
});
