/** Values of every kind, as text of the statement and as a parameter that Postgres casts. */
import { statements, type Behaviour } from './behaviour.ts';

const VALUES: Readonly<Record<string, readonly [type: string, ...values: (string | null)[]]>> = {
  smallint: ['int2', '0', '-32768', '32767', null],
  integer: ['int4', '0', '-2147483648', '2147483647', null],
  bigint: ['int8', '0', '-9223372036854775808', '9007199254740993', '9223372036854775807', null],
  numeric: [
    'numeric',
    '0',
    '-0.00',
    '1.10',
    '12345678901234567890.123456789',
    '1e-30',
    '1e40',
    'NaN',
    'Infinity',
    null,
  ],
  'numeric with scale': ['numeric(10,2)', '1', '-99999999.99', null],
  real: ['float4', '0.1', '-1.5e-30', '3.4e38', 'NaN', '-Infinity', null],
  'double precision': ['float8', '0', '-0', '0.1', '1e300', '5e-324', 'NaN', 'Infinity', null],
  boolean: ['bool', 'true', 'false', null],
  text: ['text', '', 'plain', 'it\'s \\ "quoted"', 'zażółć 日本語 🐘', ' \t\n\r ', '$1', '%s', '?', null],
  varchar: ['varchar(5)', 'abc', '', null],
  char: ['char(5)', 'abc', null],
  name: ['name', 'a_name', null],
  bytea: [
    'bytea',
    '\\x',
    '\\x00ff5c27',
    `\\x${Array.from({ length: 256 }, (_, n) => n.toString(16).padStart(2, '0')).join('')}`,
    null,
  ],
  date: ['date', '2024-02-29', '0001-01-01', '9999-12-31', null],
  'date beyond': ['date', 'infinity', '-infinity', '0044-03-15 BC', '12024-01-01'],
  time: ['time', '00:00:00', '23:59:59.999999', '24:00:00', null],
  timetz: ['timetz', '04:05:06.789-08', null],
  timestamp: ['timestamp', '2024-02-29 12:34:56.789012', '1999-12-31 23:59:59', null],
  timestamptz: ['timestamptz', '2024-02-29 12:34:56.789012+02', '1970-01-01 00:00:00+00', null],
  'timestamp beyond': ['timestamptz', 'infinity', '-infinity', '0044-03-15 12:00:00+00 BC'],
  interval: ['interval', '1 year 2 months 3 days 04:05:06.789', '-1 day', '00:00:00', '1 mon', null],
  json: [
    'json',
    '{"a": [1, 2.50, null, "x\\u00e9"], "b": {"c": true}}',
    '[]',
    'null',
    '"text"',
    '12345678901234567890',
    null,
  ],
  jsonb: ['jsonb', '{"a": [1, 2.50, null, "é"], "b": {"c": true}}', '{}', 'null', '1', null],
  uuid: ['uuid', '00112233-4455-6677-8899-aabbccddeeff', null],
  inet: ['inet', '192.168.1.5/24', '::1', null],
  cidr: ['cidr', '10.0.0.0/8', null],
  macaddr: ['macaddr', '08:00:2b:01:02:03', null],
  money: ['money', '12.34', null],
  bit: ['bit varying', '10101', '', null],
  oid: ['oid', '0', '4294967295', null],
  point: ['point', '(1.5,-2)', null],
  polygon: ['polygon', '((0,0),(1,1),(1,0))', null],
  tsvector: ['tsvector', "'cat':1 'sat':2", null],
  range: ['int4range', '[1,5)', 'empty', '(,)', null],
  'range of times': ['tstzrange', '[2024-01-01 00:00:00+00,2024-02-01 00:00:00+00)', null],
  multirange: ['int4multirange', '{[1,3),[5,9)}', '{}', null],
  'array of integers': ['int4[]', '{}', '{1,2,NULL,-3}', '{{1,2},{3,4}}', '[0:1]={7,8}', null],
  'array of bigints': ['int8[]', '{1,9223372036854775807}', null],
  'array of text': ['text[]', '{}', '{a,"b c","quo\\"te","back\\\\slash",NULL,"NULL",""}', null],
  'array of numerics': ['numeric[]', '{1.10,NaN}', null],
  'array of booleans': ['bool[]', '{t,f,NULL}', null],
  'array of times': ['timestamptz[]', '{"2024-01-01 00:00:00+00",NULL}', null],
  'array of json': ['jsonb[]', '{"{\\"a\\": 1}",NULL}', null],
  'array of bytea': ['bytea[]', '{"\\\\x00ff"}', null],
  'array of uuids': ['uuid[]', '{00112233-4455-6677-8899-aabbccddeeff}', null],
};

const quoted = (value: string | null) => (value === null ? 'null' : `'${value.replaceAll("'", "''")}'`);

const types: Behaviour[] = Object.entries(VALUES).map(([name, [type, ...values]]) =>
  statements(
    `type ${name}`,
    Object.fromEntries(
      values.flatMap((value) => [
        [`${value} in the text`, `select ${quoted(value)}::${type} as value`],
        [`${value} as a parameter`, [`select $1::text::${type} as value`, value] as const],
      ]),
    ),
  ),
);

export const typeBehaviours: Behaviour[] = [
  ...types,
  statements(
    'types of the user: enum, domain, composite',
    {
      enum: "select 'happy'::conform.mood as value",
      'array of enums': "select '{sad,happy}'::conform.mood[] as value",
      domain: 'select 7::conform.positive as value',
      'domain refused': 'select (-7)::conform.positive as value',
      composite: `select row(1, 'a "quoted" b', null)::conform.pair as value`,
      record: "select row(1, 'x') as value",
      'a row of a table': 'select moods from conform.moods',
      void: 'select conform.nothing() as value',
    },
    `create type conform.mood as enum ('sad', 'happy');
     create domain conform.positive as int check (value > 0);
     create type conform.pair as (a int, b text, c int);
     create table conform.moods (id int, feels conform.mood);
     insert into conform.moods values (1, 'sad');
     create function conform.nothing() returns void language sql as 'select null::void'`,
  ),
  statements(
    'a column of a table says so',
    { all: 'select id, name, amount, id + 1 as more from conform.items order by id' },
    `create table conform.items (id int primary key, name varchar(20), amount numeric(12,3));
     insert into conform.items values (1, 'one', 1.5), (2, null, null)`,
  ),
];
