import { describe, expect, test } from 'vitest';
import type { ContractDocument, JsonSchema } from './document.ts';
import { parseForm, parseText, shapeForm } from './form.ts';

const document = {
  components: {
    schemas: { Size: { type: 'integer' }, Named: { type: 'object', properties: { name: { type: 'string' } } } },
  },
} as unknown as ContractDocument;
const shape = (schema: JsonSchema, text: string) => shapeForm(document, schema, parseForm(text));

describe('shapeForm', () => {
  test('follows references and included schemas', () => {
    const schema: JsonSchema = {
      allOf: [
        { $ref: '#/components/schemas/Named' },
        { type: 'object', properties: { size: { $ref: '#/components/schemas/Size' } } },
      ],
    };
    expect(shape(schema, 'name=1&size=1&other=1')).toEqual({ name: '1', size: 1, other: '1' });
  });

  test('one value, many values and numbered values are lists where a list is asked for', () => {
    const schema: JsonSchema = { type: 'object', properties: { a: { type: 'array', items: { type: 'integer' } } } };
    expect(shape(schema, 'a=1')).toEqual({ a: [1] });
    expect(shape(schema, 'a=1&a=2')).toEqual({ a: [1, 2] });
    expect(shape(schema, 'a[]=1&a[]=2')).toEqual({ a: [1, 2] });
    expect(shape(schema, 'a[1]=2&a[0]=1')).toEqual({ a: [1, 2] });
    expect(shape(schema, 'a=')).toEqual({ a: [] });
    expect(shape(schema, 'a[b]=1')).toEqual({ a: { b: '1' } });
  });

  test('an empty value is null only where null may be', () => {
    const schema: JsonSchema = {
      type: 'object',
      properties: { a: { type: 'string', nullable: true }, b: { type: 'string' } },
    };
    expect(shape(schema, 'a=&b=')).toEqual({ a: null, b: '' });
  });

  test('what does not fit stays as it is', () => {
    const schema: JsonSchema = { type: 'object', properties: { n: { type: 'integer' }, o: { type: 'object' } } };
    expect(shape(schema, 'n=1.5&o=x')).toEqual({ n: '1.5', o: 'x' });
  });
});

test.each([
  ['integer', '-5', -5],
  ['integer', '1e3', '1e3'],
  ['integer', '0x10', '0x10'],
  ['integer', ' 1', ' 1'],
  ['integer', '', ''],
  ['number', '.5', 0.5],
  ['number', 'Infinity', 'Infinity'],
  ['boolean', 'yes', 'yes'],
  ['string', '1', '1'],
])('parseText(%s, %j) is %j', (type, text, value) => {
  expect(parseText(type, text)).toEqual(value);
});

test('limits are errors, not memory', () => {
  expect(() => parseForm(`a${'[b]'.repeat(50)}=1`)).toThrow(RangeError);
  expect(() => parseForm('a[501]=1')).toThrow(RangeError);
  expect(() => parseForm('a=1&'.repeat(3000))).toThrow(RangeError);
});
