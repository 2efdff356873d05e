import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseSqlBody } from './sql-request.ts';

const parse = (json: string) => parseSqlBody(Buffer.from(json), false).queries.map(({ parameters }) => parameters);

describe('parameters', () => {
  test('numbers reach Postgres as they were written', () => {
    const numbers = ['12345678901234567890', '1.10', '-0', '1e400', '5.0', '0.1000000000000000055', '-12E-3'];
    expect(parse(`{"query":"q","params":[${numbers.join(' , ')}]}`)).toEqual([numbers]);
    expect(parse(`{"query":"q","params":[[1.10,[2.0,null],"x\\"y"]]}`)).toEqual([['{1.10,{2.0,NULL},"x\\"y"}']]);
  });

  test('objects as well, in batches too, whatever stands around them', () => {
    const json = ` {"params":[1],"queries" : [ {"query":"a\\\\\\"]","params":[{"n": 1.10}, true, "}", null]},
      {"query":"b"}, {"params":[7.0], "query":"c","params" : [ [ {"m":2.50} ], 12345678901234567890 ] } ] } `;
    expect(parse(json)).toEqual([
      ['{"n": 1.10}', 'true', '}', null],
      [],
      ['{"{\\"m\\":2.50}"}', '12345678901234567890'],
    ]);
  });

  test('whatever JSON they are, they mean what they say', () => {
    fc.assert(
      fc.property(fc.array(fc.jsonValue(), { maxLength: 5 }), fc.boolean(), (values, spaced) => {
        const params = values.map((value) => (Array.isArray(value) ? { value } : value));
        const json = JSON.stringify({ queries: [{ query: 'q', params }] }, undefined, spaced ? 2 : undefined);
        if (json.includes('\\u0000')) return;
        for (const [index, text] of parse(json)[0]!.entries()) {
          const value = params[index];
          if (typeof value === 'string' || value === null) expect(text).toBe(value);
          else expect(JSON.parse(text!)).toEqual(JSON.parse(JSON.stringify(value)));
        }
      }),
    );
  });
});

test.each(['', 'null', '[]', '{}', '{"query":1}', '{"query":"q","params":{}}', '{"queries":{}}', '{"queries":[1]}'])(
  'a body that is none is refused: %s',
  (json) => {
    expect(() => parse(json)).toThrow(/^invalid request body/);
  },
);
