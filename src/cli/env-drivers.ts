/**
 * What each driver needs to reach this Ballast: a whole small program, ready to be pasted, and what to change for TLS
 * with a verified certificate. test/acceptance/env.test.ts runs each of them as it is printed.
 */
export interface DriverFacts {
  domain: string;
  pgPort: number;
  /** Of the local authority; undefined when there is none. */
  caFile: string | undefined;
}

/** Where Neon's own driver looks for SQL over HTTP and for WebSockets, of itself. */
export const HTTPS_PORT = 443;

interface Driver {
  name: string;
  /** Reads the URI that the API answered from DATABASE_URL. */
  program: string;
  /** What the URI takes for TLS with a verified certificate. */
  verified: (caFile: string | undefined) => string;
  note?: string;
}

const ofNode = () => 'sslmode=verify-full';
const ofLibpq = (caFile: string | undefined) =>
  caFile === undefined ? 'sslmode=verify-full' : `sslmode=verify-full&sslrootcert=${caFile}`;

const PLAIN: Record<string, Driver> = {
  pg: {
    name: 'pg (node-postgres)',
    program: `
import pg from 'pg';
const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
console.log((await client.query('select current_user')).rows);
await client.end();`,
    verified: ofNode,
  },
  postgres: {
    name: 'postgres (postgres.js)',
    program: `
import postgres from 'postgres';
const sql = postgres(process.env.DATABASE_URL);
console.log(await sql\`select current_user\`);
await sql.end();`,
    verified: ofNode,
  },
  prisma: {
    name: 'Prisma with @prisma/adapter-pg (its generator "prisma-client" with engineType = "client")',
    program: `
import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from './generated/client.ts';
const adapter = new PrismaPg({ connectionString: process.env.DATABASE_URL });
const prisma = new PrismaClient({ adapter });
console.log(await prisma.$queryRaw\`select current_user::text\`);
await prisma.$disconnect();`,
    verified: ofNode,
  },
  drizzle: {
    name: 'Drizzle with pg',
    program: `
import { drizzle } from 'drizzle-orm/node-postgres';
const db = drizzle(process.env.DATABASE_URL);
console.log((await db.execute('select current_user')).rows);
await db.$client.end();`,
    verified: ofNode,
    note: 'With another driver below it, what that one needs (see --driver).',
  },
  kysely: {
    name: 'Kysely with pg',
    program: `
import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const db = new Kysely({ dialect: new PostgresDialect({ pool }) });
console.log((await sql\`select current_user\`.execute(db)).rows);
await db.destroy();`,
    verified: ofNode,
  },
  psycopg: {
    name: 'psycopg (3)',
    program: `
import os, psycopg
with psycopg.connect(os.environ['DATABASE_URL']) as connection:
    print(connection.execute('select current_user').fetchone())`,
    verified: ofLibpq,
  },
  jdbc: {
    name: 'JDBC (pgjdbc)',
    program: `
import java.net.URI;
import java.sql.DriverManager;
class Main {
    public static void main(String[] args) throws Exception {
        // The same URI, with user and password apart.
        var uri = URI.create(System.getenv("DATABASE_URL"));
        var address = uri.getHost() + ":" + (uri.getPort() < 0 ? 5432 : uri.getPort());
        var user = uri.getUserInfo().split(":", 2);
        var url = "jdbc:postgresql://" + address + uri.getRawPath() + "?" + uri.getRawQuery();
        try (var connection = DriverManager.getConnection(url, user[0], user[1]);
             var rows = connection.createStatement().executeQuery("select current_user")) {
            rows.next();
            System.out.println(rows.getString(1));
        }
    }
}`,
    verified: ofLibpq,
  },
  psql: {
    name: 'psql',
    program: `
psql "$DATABASE_URL" -c 'select current_user'`,
    verified: ofLibpq,
    note: 'From psql 16 on, where the machine trusts the authority (`ballast trust`): sslrootcert=system.',
  },
};

export const DRIVERS: readonly string[] = ['serverless', ...Object.keys(PLAIN)];

/** Lines of text; programs are indented. Throws RangeError for a driver that is not in DRIVERS. */
export function driverLines(driver: string, facts: DriverFacts): string[] {
  if (driver === 'serverless') return serverlessLines(facts);
  const recipe = Object.hasOwn(PLAIN, driver) ? PLAIN[driver] : undefined;
  if (!recipe) throw new RangeError(`no such driver: ${driver}`);
  return [
    `${recipe.name}: DATABASE_URL is the connection URI of the API, as it is`,
    ...indented(recipe.program),
    `Encrypted, and certain that this Ballast is at the other end: add to the URI &${recipe.verified(facts.caFile)}`,
    ...(recipe.note === undefined ? [] : [recipe.note]),
  ];
}

/** Neon's own driver builds its addresses from the host of the URI, without a port. */
export function neonConfigLines({ domain, pgPort }: DriverFacts, verified: boolean): string[] {
  if (verified && pgPort === HTTPS_PORT) return [];
  const loopback = domain === 'localhost';
  const host = loopback ? domain : `api.${domain}`;
  // Works where *.localhost does not resolve as well.
  const webSocket = loopback ? `localhost:${pgPort}/v2?address=\${host}` : `\${host}:${pgPort}/v2`;
  return [
    `neonConfig.fetchEndpoint = () => '${verified ? 'https' : 'http'}://${host}:${pgPort}/sql';`,
    `neonConfig.wsProxy = (host) => \`${webSocket}\`;`,
    ...(verified ? [] : ['neonConfig.useSecureWebSocket = false;']),
  ];
}

function serverlessLines(facts: DriverFacts): string[] {
  const loopback = facts.domain === 'localhost';
  const program = (verified: boolean) =>
    indented(`
import { neon, neonConfig, Pool } from '@neondatabase/serverless';
import ws from 'ws'; // before Node 22
neonConfig.webSocketConstructor = ws;
${neonConfigLines(facts, verified).join('\n')}
const sql = neon(process.env.DATABASE_URL);
console.log(await sql\`select current_user\`);
const pool = new Pool({ connectionString: process.env.DATABASE_URL });
console.log((await pool.query('select current_user')).rows);
await pool.end();`);
  const least =
    facts.pgPort === HTTPS_PORT
      ? []
      : ['Where Ballast listens on the port of HTTPS (--pg-port 443), neonConfig needs nothing.'];
  return [
    '@neondatabase/serverless: DATABASE_URL is the connection URI of the API, as it is',
    ...(loopback ? [...program(false), 'Encrypted, and certain that this Ballast is at the other end:'] : []),
    ...program(true),
    ...least,
  ];
}

function indented(program: string): string[] {
  const lines = program.split('\n').filter((line) => line !== '');
  return lines.map((line) => `  ${line}`);
}
