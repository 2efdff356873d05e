import { expect, test } from 'vitest';
import { trustedUrl } from './trusted-url.ts';

test.each([
  'https://example.com/.well-known/jwks.json',
  'http://localhost:8080/keys',
  'http://127.0.0.1/keys',
  'http://[::1]:1/keys',
])('%s may be fetched', (text) => {
  expect(trustedUrl(text)?.href).toBe(text);
});

test.each([
  'http://example.com/keys',
  'http://127.0.0.1.example.com/keys',
  'http://localhost.example.com/keys',
  'https://me:secret@example.com/keys',
  'file:///etc/passwd',
  'data:application/json,{}',
  'keys',
  '',
])('%s may not', (text) => {
  expect(trustedUrl(text)).toBeUndefined();
});
