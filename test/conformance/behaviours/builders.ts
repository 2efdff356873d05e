/** Query builders and object mappers: what they offer beyond SQL text, in their own words, over two tables. */
import type { Behaviour } from './behaviour.ts';

export const builderBehaviours: Behaviour[] = [
  {
    name: "the driver's own words",
    setup: `
      create table conform.people (
        id int primary key, name text not null, email text unique, born date, score numeric(10,2),
        tags text[] not null default '{}', extra jsonb, joined timestamptz not null default '2024-01-01 00:00:00+00');
      create table conform.posts (
        id int primary key, author int not null references conform.people (id), title text not null, views bigint not null default 0)`,
    needs: ['builder'],
    run: async ({ open, seen }) => {
      const session = await open();
      return seen(session.builder!());
    },
  },
];
