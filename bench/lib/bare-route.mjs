/**
 * The floor of an API read, a process of its own: Fastify with one route that runs one named query on a row as wide as
 * the API's answer and returns it as JSON. Prints its port.
 */
import fastify from 'fastify';
import pg from 'pg';

const { connection, body } = JSON.parse(process.env.BARE_ROUTE);
const pool = new pg.Pool({ ...connection, max: 8 });
await pool.query('create table if not exists answers (id int primary key, body jsonb)');
await pool.query('insert into answers values (1, $1) on conflict (id) do update set body = excluded.body', [body]);

const server = fastify();
server.get('/one', async () => {
  const { rows } = await pool.query({ name: 'one', text: 'select body from answers where id = $1', values: [1] });
  return rows[0].body;
});
await server.listen({ port: 0, host: '127.0.0.1' });
process.stdout.write(`${server.server.address().port}\n`);
