import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTestApi, type TestApi } from '../../../test/support/control-plane.ts';

// Postgres takes neither NUL nor half of a surrogate pair: no text of a request may get that far.
let api: TestApi;
let project: string;
let branch: string;

beforeAll(async () => {
  api = await openTestApi();
  const made = await api.call('POST', '/projects', { project: {} });
  await api.settle();
  project = `/projects/${made.project.id}`;
  branch = `${project}/branches/${made.branch.id}`;
});
afterAll(() => api.close());

test.each(['\0', 'a\0b', '\ud800', 'a\udc00b'])('%j is never a 5xx', async (text) => {
  const query = encodeURIComponent(text.replaceAll(/\p{Surrogate}/gu, '\ufffd'));
  const requests: [string, string, object?][] = [
    ['POST', '/projects', { project: { name: text } }],
    ['POST', '/projects', { project: { provisioner: text } }],
    ['POST', '/projects', { project: { branch: { annotations: { a: text, [text]: 'b' } } } }],
    ['POST', '/projects', { project: { branch: { role_name: text, database_name: text } } }],
    ['PATCH', project, { project: { name: text } }],
    ['POST', `${project}/branches`, { branch: { name: text } }],
    ['POST', `${project}/branches`, { annotation_value: { [text]: 'a', b: text } }],
    ['PATCH', branch, { branch: { name: text } }],
    ['POST', `${branch}/roles`, { role: { name: text } }],
    ['POST', `${branch}/databases`, { database: { name: 'ok', owner_name: text } }],
    ['POST', `${branch}/databases`, { database: { name: text, owner_name: 'neondb_owner' } }],
    ['PATCH', `${branch}/databases/neondb`, { database: { name: text } }],
    ['POST', '/api_keys', { key_name: text }],
    ['GET', `/projects?search=${query}`],
    ['GET', `/projects?cursor=${query}`],
    ['GET', `${project}/branches?search=${query}`],
    ['GET', `${project}/branches/count?search=${query}`],
    ['GET', `${project}/operations?cursor=${query}`],
    ['GET', `${project}/connection_uri?role_name=${query}&database_name=${query}`],
    ['GET', `${branch}/roles/${query}`],
    ['DELETE', `${branch}/roles/${query}`],
    ['GET', `${branch}/databases/${query}`],
    ['GET', `/organizations/${query}`],
  ];
  const failed: string[] = [];
  for (const [method, path, body] of requests) {
    const { status } = await api.request(method, path, body);
    if (status >= 500) failed.push(`${method} ${path} ${JSON.stringify(body)}: ${status}`);
  }
  expect(failed).toEqual([]);
});
