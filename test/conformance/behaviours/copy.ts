/** COPY in both directions, and its failures. */
import type { Behaviour } from './behaviour.ts';

const TABLE = 'create table conform.copied (n int primary key, label text, at timestamptz)';
const lines = (count: number, from = 1) =>
  Buffer.from(
    Array.from({ length: count }, (_, n) => `${n + from}\tlabel ${n + from} zażółć\t2024-01-01 00:00:00+00\n`).join(''),
  );

export const copyBehaviours: Behaviour[] = [
  {
    name: 'COPY in, as text, CSV and in pieces',
    setup: TABLE,
    needs: ['copyIn'],
    run: async ({ open, seen }) => {
      const session = await open();
      const data = lines(1000);
      const torn = [data.subarray(0, 7), data.subarray(7, 100), data.subarray(100, 101), data.subarray(101)];
      const csv = Buffer.from('n,label\n5001,"a ""quoted"", one"\n5002,\n');
      return {
        text: await seen(session.copyIn!('copy conform.copied from stdin', torn)),
        csv: await seen(session.copyIn!('copy conform.copied (n, label) from stdin (format csv, header)', [csv])),
        nothing: await seen(session.copyIn!('copy conform.copied from stdin', [])),
        count: await seen(
          session.query('select count(*)::int as n, count(label)::int as labels, max(n) as max from conform.copied'),
        ),
      };
    },
  },
  {
    name: 'COPY in of many megabytes',
    setup: 'create table conform.big (line text)',
    needs: ['copyIn'],
    run: async ({ open, seen }) => {
      const session = await open();
      const chunk = Buffer.from(`${'x'.repeat(1023)}\n`.repeat(256));
      return {
        copied: await seen(
          session.copyIn!(
            'copy conform.big from stdin',
            Array.from({ length: 64 }, () => chunk),
          ),
        ),
        count: await seen(
          session.query('select count(*)::int as n, sum(length(line))::int as length from conform.big'),
        ),
      };
    },
  },
  {
    name: 'COPY in that fails, by the data and by the client',
    setup: TABLE,
    needs: ['copyIn'],
    run: async ({ open, seen }) => {
      const session = await open();
      const all: Record<string, unknown> = {
        'a bad row': await seen(
          session.copyIn!('copy conform.copied from stdin', [lines(10), Buffer.from('eleven\tx\t\\N\n')]),
        ),
        'a row twice': await seen(session.copyIn!('copy conform.copied from stdin', [lines(10), lines(1, 5)])),
        'no such table': await seen(session.copyIn!('copy conform.nowhere from stdin', [lines(1)])),
        after: await seen(session.query('select count(*)::int as n from conform.copied')),
      };
      if (session.copyInGivenUp) {
        all['given up'] = await seen(session.copyInGivenUp('copy conform.copied from stdin', [lines(10)]));
        all['after that'] = await seen(session.query('select count(*)::int as n from conform.copied'));
      }
      return all;
    },
  },
  {
    name: 'COPY in within a transaction that is rolled back',
    setup: TABLE,
    needs: ['copyIn'],
    run: async ({ open, seen }) => {
      const session = await open();
      await session.query('begin');
      const copied = await seen(session.copyIn!('copy conform.copied from stdin', [lines(50)]));
      const inside = await seen(session.query('select count(*)::int as n from conform.copied'));
      await session.query('rollback');
      return { copied, inside, after: await seen(session.query('select count(*)::int as n from conform.copied')) };
    },
  },
  {
    name: 'COPY out, as text, CSV and binary',
    setup: `${TABLE}; insert into conform.copied select n, 'label ' || n, '2024-01-01' from generate_series(1, 2000) n`,
    needs: ['copyOut'],
    run: async ({ open, seen }) => {
      const out = async (text: string) => seen((await open()).copyOut!(text));
      return {
        text: await out('copy conform.copied to stdout'),
        csv: await out('copy (select n, label from conform.copied order by n limit 3) to stdout (format csv, header)'),
        binary: await out('copy (select n, label from conform.copied order by n) to stdout (format binary)'),
        nothing: await out('copy (select 1 where false) to stdout'),
      };
    },
  },
  {
    name: 'COPY out that fails amid the rows',
    needs: ['copyOut'],
    run: async ({ open, seen }) => {
      const session = await open();
      const text = 'copy (select 1 / (1500 - n) from generate_series(1, 2000) n) to stdout';
      return { failed: await seen(session.copyOut!(text)), after: await seen(session.query('select 1 as one')) };
    },
  },
];
