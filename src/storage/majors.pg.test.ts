/**
 * Every major at hand: its template, its control file, its WAL and its backup functions are what storage believes.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeEngine, ref } from '../../test/support/engine.ts';
import type { Engine } from '../../test/support/engine.ts';
import { majorsAtHand } from '../../test/support/majors.ts';
import { makePool } from '../../test/support/pool.ts';
import type { TestPool } from '../../test/support/pool.ts';
import { readControlData } from '../postgres/control-data.ts';

describe.each(majorsAtHand())('Postgres %i', (major) => {
  let pool: TestPool;
  let engine: Engine;

  beforeAll(async () => {
    pool = await makePool('plain');
    engine = await makeEngine({ pool: pool.directory, major });
    await engine.root('main');
    await engine.start('main', { track_commit_timestamp: 'on' });
    await engine.sql('main', 'create table public.notes as select generate_series(1, 1000) as n');
  });
  afterAll(async () => {
    await engine?.close();
    await pool?.remove();
  });

  test('a project has what its users expect, and no way to the host', async () => {
    const roles = await engine.sql(
      'main',
      `select rolname from pg_roles where rolname ~ '(server_files|server_program|neon_superuser|cloud_admin)' order by 1`,
    );
    expect(roles).toEqual([['cloud_admin'], ['neon_superuser']]);
    expect(
      await engine.sql(
        'main',
        `select rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls, rolsuper from pg_roles where rolname = 'neon_superuser'`,
      ),
    ).toEqual([['t', 't', 'f', 't', 'f']]);
    const settings = await engine.sql(
      'main',
      `select current_setting('data_checksums'), current_setting('wal_segment_size'), pg_encoding_to_char(encoding), datcollate from pg_database where datname = 'postgres'`,
    );
    expect(settings).toEqual([['on', '4MB', 'UTF8', 'C.UTF-8']]);
  });

  test('control data agrees with Postgres', async () => {
    const control = await readControlData(engine.storage.dataDirectory(ref('main')));
    const [row] = await engine.sql(
      'main',
      `select s.system_identifier, s.catalog_version_no, c.timeline_id, i.data_page_checksum_version
      from pg_control_system() s, pg_control_checkpoint() c, pg_control_init() i`,
    );
    const own = [control.systemIdentifier, control.catalogVersion, control.timelineId, 1].map(String);
    expect(own).toEqual(row);
    expect(control.state).toBe('in production');
  });

  test('a child of a running parent knows its point and the time of its last commit', async () => {
    await engine.sql('main', 'insert into public.notes values (1001)');
    const [[time]] = (await engine.sql(
      'main',
      `select to_char(timestamp at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') from pg_last_committed_xact()`,
    )) as [[string]];
    const child = await engine.child('hot', 'main');
    expect(child).toMatchObject({ recovery: 'replay', branchTimestamp: time });
    await engine.start('hot');
    expect(await engine.sql('hot', 'select count(*) from public.notes')).toEqual([['1001']]);
  });

  test('a parent without a template behind it is copied by a base of its own', async () => {
    await engine.sql('hot', 'insert into public.notes values (2001)');
    await engine.child('grandchild', 'hot');
    await engine.start('grandchild');
    expect(await engine.sql('grandchild', 'select count(*) from public.notes')).toEqual([['1002']]);
    await engine.stop('grandchild');
  });

  test('a child of a suspended parent', async () => {
    await engine.stop('main');
    const child = await engine.child('rest', 'main');
    expect(child.recovery).toBe('promote');
    await engine.start('rest');
    expect(await engine.sql('rest', 'select count(*) from public.notes')).toEqual([['1001']]);
    const [[lsn]] = (await engine.sql('rest', 'select redo_lsn from pg_control_checkpoint()')) as [[string]];
    expect(lsn >= child.branchLsn!).toBe(true);
    await engine.stop('rest');
  });
});
