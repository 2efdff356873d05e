/**
 * Random values that a schema of the document allows, for property tests. Objects get their required fields and some
 * of the others; recursion does not occur in the document.
 */
import fc from 'fast-check';
import type { ContractDocument, JsonSchema } from '../../src/contract/document.ts';
import { dereference } from '../../src/contract/document.ts';

/** Names that objects have by nature never get through (see form.ts and requests.ts). */
const KEY = fc.stringMatching(/^[a-z_]{1,12}$/).filter((key) => !(key in {}));

export function valid(document: ContractDocument, declared: JsonSchema): fc.Arbitrary<unknown> {
  const schema = dereference(document, declared);
  const value = plain(document, schema);
  return schema.nullable === true ? fc.option(value, { nil: null }) : value;
}

function plain(document: ContractDocument, schema: JsonSchema): fc.Arbitrary<unknown> {
  if (schema.allOf) return fc.tuple(...schema.allOf.map((part) => valid(document, part))).map(combine);
  const alternatives = schema.oneOf ?? schema.anyOf;
  if (alternatives) return fc.oneof(...alternatives.map((part) => valid(document, part)));
  if (schema.enum) return fc.constantFrom(...schema.enum);
  switch (schema.type) {
    case 'string':
      return text(schema);
    case 'integer':
      return fc.integer({ min: (schema['minimum'] as number) ?? 0, max: (schema['maximum'] as number) ?? 2 ** 31 - 1 });
    case 'number':
      return fc.constantFrom(0.25, 0.5, 1, 2, 16);
    case 'boolean':
      return fc.boolean();
    case 'array':
      return fc.array(valid(document, schema.items ?? { type: 'string' }), {
        minLength: (schema['minItems'] as number) ?? 0,
        maxLength: Math.max(2, (schema['minItems'] as number) ?? 0),
      });
    default:
      return object(document, schema);
  }
}

function combine(parts: unknown[]): unknown {
  return parts.length === 1 ? parts[0] : Object.assign({}, ...(parts as object[]));
}

function object(document: ContractDocument, schema: JsonSchema): fc.Arbitrary<unknown> {
  const properties = Object.fromEntries(
    Object.entries(schema.properties ?? {}).map(([name, inner]) => [name, valid(document, inner)]),
  );
  const known = fc.record(properties, { requiredKeys: schema.required ?? [] });
  if (typeof schema.additionalProperties !== 'object') return known;
  const rest = fc.dictionary(KEY, valid(document, schema.additionalProperties), { maxKeys: 3 });
  return fc.tuple(rest, known).map(([more, own]) => ({ ...more, ...own }));
}

function text(schema: JsonSchema): fc.Arbitrary<string> {
  if (typeof schema['pattern'] === 'string') return fc.stringMatching(new RegExp(schema['pattern']));
  switch (schema.format) {
    case 'uuid':
      return fc.uuid();
    case 'date-time':
      return fc
        .integer({ min: 1_700_000_000, max: 1_900_000_000 })
        .map((seconds) => new Date(seconds * 1000).toISOString());
    case 'email':
      return fc.emailAddress();
    case 'uri':
      return fc.constantFrom('https://example.com/a', 'http://localhost:3000');
    default:
      return fc.string({
        unit: 'grapheme',
        minLength: (schema['minLength'] as number) ?? 0,
        maxLength: Math.min((schema['maxLength'] as number) ?? 20, 20),
      });
  }
}
