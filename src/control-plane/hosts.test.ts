import pg from 'pg';
import postgres from 'postgres';
import { describe, expect, test } from 'vitest';
import type { ControlPlaneConfig } from './context.ts';
import { connectionUri, endpointHost, poolerHost } from './hosts.ts';

const base: ControlPlaneConfig = { domain: 'db.example.com', pgPort: 5432, nodeId: 'n', namesResolve: true };
const target = {
  endpointId: 'ep-calm-sun-12345678',
  role: 'neondb_owner',
  password: 'npg_abc',
  database: 'neondb',
  pooled: false,
};

describe('a real domain', () => {
  test('gives the URI that Neon gives', () => {
    expect(connectionUri(base, target)).toBe(
      'postgresql://neondb_owner:npg_abc@ep-calm-sun-12345678.db.example.com/neondb?sslmode=require&channel_binding=require',
    );
  });

  test('pooled hosts have the suffix on the first label only', () => {
    expect(poolerHost(base, target.endpointId)).toBe('ep-calm-sun-12345678-pooler.db.example.com');
    expect(connectionUri(base, { ...target, pooled: true })).toContain('@ep-calm-sun-12345678-pooler.db.example.com/');
  });

  test('a port other than 5432 is part of hosts and URIs', () => {
    const config = { ...base, pgPort: 6543 };
    expect(endpointHost(config, target.endpointId)).toBe('ep-calm-sun-12345678.db.example.com:6543');
    expect(connectionUri(config, target)).toContain('@ep-calm-sun-12345678.db.example.com:6543/');
  });
});

describe('localhost', () => {
  const config = { ...base, domain: 'localhost', pgPort: 5433, namesResolve: false };

  test('names the endpoint in options, on a host that resolves', () => {
    expect(connectionUri(config, target)).toBe(
      'postgresql://neondb_owner:npg_abc@localhost:5433/neondb?options=endpoint%3Dep-calm-sun-12345678',
    );
    expect(connectionUri({ ...config, namesResolve: true }, { ...target, pooled: true })).toBe(
      'postgresql://neondb_owner:npg_abc@ep-calm-sun-12345678-pooler.localhost:5433/neondb?options=endpoint%3Dep-calm-sun-12345678-pooler',
    );
  });

  test('pg reads it, and without TLS', () => {
    const client = new pg.Client(connectionUri(config, target));
    expect(client).toMatchObject({ host: 'localhost', port: 5433, database: 'neondb', user: 'neondb_owner' });
    const { connectionParameters } = client as unknown as {
      connectionParameters: { options: string; ssl: unknown };
    };
    expect(connectionParameters).toMatchObject({ options: 'endpoint=ep-calm-sun-12345678', ssl: false });
  });

  test('postgres.js reads it, and without TLS', () => {
    const { options } = postgres(connectionUri(config, target));
    expect(options).toMatchObject({ host: ['localhost'], port: [5433], database: 'neondb', ssl: false });
    expect(options.connection).toMatchObject({ options: 'endpoint=ep-calm-sun-12345678' });
  });
});

test('names and passwords survive a URI', () => {
  const strange = { ...target, role: 'a b/ü:@?', password: 'p#w%/=&', database: 'd b%ö "x"' };
  for (const config of [base, { ...base, domain: 'localhost', namesResolve: false }]) {
    const client = new pg.Client(connectionUri(config, strange));
    expect(client).toMatchObject({ user: strange.role, password: strange.password, database: strange.database });
  }
});
