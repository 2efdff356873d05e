/** What belongs to a session: settings, temporary things, locks, notifications, notices, its name, its end. */
import { waitFor } from '../../support/wait.ts';
import { statements, type Behaviour, type Stage } from './behaviour.ts';
import { settle } from '../session.ts';

const WAIT = { timeoutMs: 90_000 };

/** Sessions of the role other than the admin's whose statement contains the mark. */
async function marked({ admin }: Stage, mark: string, state?: string): Promise<number> {
  const { rows } = await admin.query(
    `select 1 from pg_stat_activity where query like $1 and pid <> pg_backend_pid() and ($2::text is null or state = $2)`,
    [`%${mark}%`, state ?? null],
  );
  return rows.length;
}

const NOTICES = `create function conform.says(n int) returns int language plpgsql as $$ begin
  raise notice 'n is %', n using detail = 'the detail', hint = 'the hint';
  raise warning 'take care' using errcode = 'BA001';
  raise debug 'not heard';
  return n; end $$`;

export const sessionBehaviours: Behaviour[] = [
  statements('what the server says of itself', {
    ...Object.fromEntries(
      [
        'server_version',
        'server_version_num',
        'server_encoding',
        'client_encoding',
        'DateStyle',
        'IntervalStyle',
        'TimeZone',
        'standard_conforming_strings',
        'integer_datetimes',
        'is_superuser',
        'session_authorization',
        'search_path',
        'transaction_isolation',
        'default_transaction_read_only',
        'bytea_output',
        'lc_messages',
        'in_hot_standby',
      ].map((name) => [name, `show ${name}`]),
    ),
    version: 'select version()',
    user: 'select current_user::text as a, session_user::text as b, current_database()::text as c, current_schema()::text as d',
    collation:
      "select 'a' < 'B' as compares, upper('zażółć') as upper, datcollate, datctype, datlocprovider from pg_database where datname = current_database()",
  }),
  statements('settings for a transaction', {
    begin: 'begin',
    set: "set local timezone to 'Asia/Tokyo'",
    shown: "select '2024-01-01 00:00:00+00'::timestamptz::text as at",
    'by a function': "select set_config('conform.mine', 'yes', true)",
    'read back': "select current_setting('conform.mine')",
    commit: 'commit',
    after:
      "select '2024-01-01 00:00:00+00'::timestamptz::text as at, nullif(current_setting('conform.mine', true), '') as mine",
  }),
  statements('settings that Postgres reports stay in the session', {
    'time zone': "set timezone to 'Asia/Tokyo'",
    'date style': "set datestyle to 'SQL, DMY'",
    'interval style': "set intervalstyle to 'iso_8601'",
    'application name': "set application_name to 'renamed'",
    shown: `select '2024-01-02 00:00:00+00'::timestamptz::text as at, '1 day'::interval::text as span,
            current_setting('application_name') as name`,
    'in a transaction': 'begin',
    'undone with it': "set timezone to 'Europe/Paris'",
    rollback: 'rollback',
    still: 'show timezone',
    reset: 'reset timezone',
    'after the reset': 'show timezone',
  }),
  statements('other settings stay in the session', {
    set: "set work_mem to '12345kB'",
    shown: 'show work_mem',
    path: 'set search_path to conform',
    'path shown': 'show search_path',
    custom: "select set_config('conform.mine', 'yes', false)",
    'custom shown': "select coalesce(nullif(current_setting('conform.mine', true), ''), 'unset') as mine",
  }),
  statements('the role of a session', {
    role: 'set role neondb_owner',
    shown: 'select current_user::text as name',
    'not allowed': 'set role postgres_of_nobody',
    none: 'reset role',
  }),
  statements('temporary tables stay in the session', {
    create: 'create temporary table mine (n int)',
    fill: 'insert into mine values (1)',
    read: 'select n from mine',
  }),
  statements('temporary tables of a transaction', {
    begin: 'begin',
    create: 'create temporary table mine (n int) on commit drop',
    fill: 'insert into mine values (1)',
    read: 'select n from mine',
    commit: 'commit',
    gone: 'select n from mine',
  }),
  statements('statements prepared by SQL stay in the session', {
    prepare: 'prepare adds (int) as select $1 + 1 as n',
    execute: 'execute adds(1)',
    deallocate: 'deallocate adds',
    gone: 'execute adds(1)',
  }),
  statements('cursors that outlive their transaction', {
    begin: 'begin',
    declare: 'declare lasting cursor with hold for select n from generate_series(1, 10) n',
    commit: 'commit',
    fetch: 'fetch 2 from lasting',
    close: 'close lasting',
  }),
  statements('advisory locks of the session', {
    lock: 'select pg_advisory_lock(4711)',
    held: "select 'locks: ' || count(*) as n from pg_locks where locktype = 'advisory' and objid = 4711 and pid = pg_backend_pid()",
    unlock: "select 'was held: ' || pg_advisory_unlock(4711) as was_held",
  }),
  statements('advisory locks of a transaction', {
    begin: 'begin',
    lock: 'select pg_advisory_xact_lock(4712)',
    held: "select count(*)::int as n from pg_locks where locktype = 'advisory' and objid = 4712",
    commit: 'commit',
    released: "select count(*)::int as n from pg_locks where locktype = 'advisory' and objid = 4712",
  }),
  statements('discard all', { discard: 'discard all', after: 'select 1 as one' }),
  {
    name: 'the name of the application',
    needs: ['startup'],
    run: async ({ open, seen, admin }) => {
      const session = await open({ applicationName: 'conform-app' });
      const shown = await seen(session.query('show application_name'));
      const outside = await seen(
        admin
          .query("select count(*) > 0 as there from pg_stat_activity where application_name = 'conform-app'")
          .then(({ rows }) => rows),
      );
      return { shown, outside };
    },
  },
  {
    name: 'settings in the startup packet',
    needs: ['startup'],
    run: async (stage) => {
      const look = async () => {
        const session = await stage.open({ settings: { search_path: 'conform', statement_timeout: '54321' } });
        return [await session.query('show search_path'), await session.query('show statement_timeout')];
      };
      return { outcome: await stage.seen(look()) };
    },
  },
  {
    name: 'notices',
    setup: NOTICES,
    needs: ['notices'],
    run: async ({ open, seen }) => {
      const session = await open();
      const answer = await seen(session.query('select conform.says($1::int) as n', [7]));
      await session.query('drop table if exists conform.not_there');
      return { answer, notices: await seen(session.notices!()) };
    },
  },
  {
    name: 'notifications from others and from itself',
    needs: ['listen'],
    run: async ({ open, seen, admin, target }) => {
      const session = await open();
      const hear = await session.listen!('conform_news');
      await admin.query("select pg_notify('conform_news', 'zażółć from outside')");
      await session.query('notify conform_news');
      await session.query("select pg_notify('conform_news', 'own')");
      await session.query("select pg_notify('conform_other', 'not for us')");
      // On pooled hosts there will be none; a number of answers is a bound without a clock.
      if (target.path === 'pooled') for (let asked = 0; asked < 300; asked += 1) await session.query('select 1');
      else await waitFor('the notifications', async () => (await hear()).length >= 3, WAIT);
      const payloads = (await hear()).map(({ channel, payload }) => `${channel}: ${payload}`);
      return { payloads, after: await seen(session.query('select 1 as one')) };
    },
  },
  {
    name: 'a statement that is cancelled',
    needs: ['cancel'],
    run: async (stage) => {
      const session = await stage.open();
      const running = settle(session.query('select pg_sleep(600) /* conform-cancel */'));
      await waitFor('the statement to run', async () => (await marked(stage, 'conform-cancel', 'active')) === 1, WAIT);
      await session.cancel!();
      const cancelled = await stage.seen(running.then((settled) => settled));
      const after = await stage.seen(session.query('select 1 as one'));
      return { cancelled, after };
    },
  },
  {
    name: 'a cancel when nothing runs does no harm',
    needs: ['cancel'],
    run: async ({ open, seen }) => {
      const session = await open();
      await session.query('select 1');
      await session.cancel!();
      // Postgres drops what comes late; one statement may meet it.
      await settle(session.query('select 1'));
      return seen(session.query('select 1 as one'));
    },
  },
  {
    name: 'a statement cancelled in a transaction',
    setup: 'create table conform.kept (n int)',
    needs: ['cancel'],
    run: async (stage) => {
      const session = await stage.open();
      await session.query('begin');
      await session.query('insert into conform.kept values (1)');
      const running = settle(session.query('select pg_sleep(600) /* conform-cancel-inside */'));
      await waitFor(
        'the statement to run',
        async () => (await marked(stage, 'conform-cancel-inside', 'active')) === 1,
        WAIT,
      );
      await session.cancel!();
      const cancelled = await stage.seen(running.then((settled) => settled));
      return {
        cancelled,
        refused: await stage.seen(session.query('select 1 as one')),
        ended: await stage.seen(session.query('commit')),
        left: await stage.seen(session.query('select count(*)::int as n from conform.kept')),
      };
    },
  },
  {
    name: 'a client that goes amid a transaction leaves nothing of it',
    setup: 'create table conform.kept (n int)',
    needs: ['destroy'],
    run: async (stage) => {
      const session = await stage.open();
      await session.query('begin');
      await session.query('insert into conform.kept values (1) /* conform-gone-idle */');
      session.destroy!();
      await waitFor(
        'its transaction to end',
        async () => (await marked(stage, 'conform-gone-idle', 'idle in transaction')) === 0,
        WAIT,
      );
      const other = await stage.open();
      return stage.seen(other.query('select count(*)::int as n from conform.kept'));
    },
  },
  {
    name: 'a client that goes amid a statement does no harm to others',
    needs: ['destroy'],
    run: async (stage) => {
      const session = await stage.open();
      await stage.admin.query('select pg_advisory_lock(4713)');
      void settle(session.query('select pg_advisory_xact_lock(4713) /* conform-gone-active */'));
      await waitFor(
        'the statement to run',
        async () => (await marked(stage, 'conform-gone-active', 'active')) === 1,
        WAIT,
      );
      session.destroy!();
      await stage.admin.query('select pg_advisory_unlock(4713)');
      await waitFor(
        'the statement to end',
        async () => (await marked(stage, 'conform-gone-active', 'active')) === 0,
        WAIT,
      );
      const other = await stage.open();
      return stage.seen(other.query('select 1 as one'));
    },
  },
];
