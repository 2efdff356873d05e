/**
 * Queries on `users`.
 */
import type { Queryable, UserRow } from './types.ts';

export async function findUser(db: Queryable, id: string): Promise<UserRow | undefined> {
  const rows = await db.query<UserRow>('select * from users where id = $1', [id], 'find_user');
  return rows[0];
}

/** The owner: the user that the first start made. */
export async function findFirstUser(db: Queryable): Promise<UserRow | undefined> {
  const rows = await db.query<UserRow>('select * from users order by created_at, id limit 1');
  return rows[0];
}

export async function listUsers(db: Queryable): Promise<UserRow[]> {
  return db.query<UserRow>('select * from users order by created_at, id');
}

export async function insertUser(db: Queryable, user: Omit<UserRow, 'createdAt'>): Promise<UserRow> {
  const rows = await db.query<UserRow>(
    'insert into users (id, email, name, last_name) values ($1, $2, $3, $4) returning *',
    [user.id, user.email, user.name, user.lastName],
  );
  return rows[0]!;
}
