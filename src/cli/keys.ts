/**
 * `ballast keys create|list|revoke`: API keys, by way of the API of the running Ballast.
 */
import type { Home } from '../home.ts';
import { openApi } from './api.ts';
import { CommandError, print, printJson, table } from './print.ts';

interface ApiKey {
  id: number;
  name: string;
  created_at: string;
  last_used_at?: string | null;
}

export async function createKey(home: Home, name: string, options: { json: boolean }): Promise<void> {
  const api = await openApi(home);
  const created = await api.post<{ id: number; key: string }>('/api_keys', { key_name: name });
  if (options.json) return printJson({ id: created.id, name, key: created.key });
  // The key alone on stdout, so that `KEY=$(ballast keys create ci)` works.
  process.stderr.write(`API key ${created.id} "${name}"; it is shown only this once:\n`);
  print(created.key);
}

export async function listKeys(home: Home, options: { json: boolean }): Promise<void> {
  const api = await openApi(home);
  const keys = await api.get<ApiKey[]>('/api_keys');
  if (options.json) return printJson(keys);
  const rows = keys.map((key) => [String(key.id), key.name, key.created_at, key.last_used_at ?? 'never']);
  print(table(['ID', 'NAME', 'CREATED', 'LAST USED'], rows));
}

export async function revokeKey(home: Home, id: string): Promise<void> {
  if (!/^\d+$/.test(id)) throw new CommandError(`not the id of a key: "${id}" (see \`ballast keys list\`)`);
  const api = await openApi(home);
  await api.delete(`/api_keys/${id}`);
  print(`API key ${id} is revoked`);
}
