/** Parameters of the extended protocol. */
import { statements, type Behaviour } from './behaviour.ts';

const many = Array.from({ length: 1000 }, (_, n) => n);

export const parameterBehaviours: Behaviour[] = [
  statements('parameters of JavaScript types', {
    integer: ['select $1::int4 as value', 42],
    negative: ['select $1::int8 as value', -42],
    fraction: ['select $1::float8 as value', 0.25],
    true: ['select $1::bool as value', true],
    false: ['select $1::bool as value', false],
    null: ['select $1::text as value', null],
    text: ['select $1::text as value', 'it\'s "quoted" \\ and $1 ? %s'],
    'empty text': ['select $1::text as value', ''],
    unicode: ['select $1::text as value, length($2::text) as length', 'zażółć 🐘', 'zażółć 🐘'],
    'a null character is refused': ['select $1::text as value', 'a\0b'],
    'text where a number is wanted': ['select $1::int4 as value', 'many'],
    'a number out of range': ['select $1::int2 as value', '70000'],
    'in a limit': ['select n from generate_series(1, 10) n limit $1::int', 3],
    'several of different types': ['select $1::int4 as a, $2::text as b, $3::bool as c', 1, 'two', true],
    'a list in an array': ['select $1::int[] as value', '{1,2,3}'],
    json: ['select $1::jsonb as value', '{"a":[1,2,{"b":null}]}'],
    time: ['select $1::timestamptz as value', '2024-02-29T12:34:56.789Z'],
  }),
  statements('a thousand parameters', {
    sum: [`select ${many.map((n) => `$${n + 1}::int`).join(' + ')} as sum`, ...many],
  }),
  statements('too few and too many parameters', {
    few: ['select $1::int as a, $2::int as b', 1],
    'and on': 'select 1 as one',
    many: ['select $1::int as a', 1, 2],
    'and on again': 'select 1 as one',
  }),
  statements(
    'rows written with parameters',
    {
      insert: ['insert into conform.notes values ($1, $2, $3)', 1, 'first', '{x,y}'],
      'insert returning': ['insert into conform.notes values ($1, $2, null) returning *', 2, 'second'],
      update: ['update conform.notes set body = $1 where id = $2', 'changed', 1],
      'update of none': ['update conform.notes set body = $1 where id = $2', 'changed', 99],
      upsert: [
        'insert into conform.notes values ($1, $2) on conflict (id) do update set body = excluded.body returning id, body',
        2,
        'again',
      ],
      select: ['select * from conform.notes where id = any($1::int[]) order by id', '{1,2}'],
      merge: `merge into conform.notes n using (values (1, 'merged')) s (id, body) on n.id = s.id
              when matched then update set body = s.body when not matched then do nothing`,
      delete: ['delete from conform.notes where id > $1', 0],
      truncate: 'truncate conform.notes',
    },
    'create table conform.notes (id int primary key, body text, tags text[])',
  ),
];
