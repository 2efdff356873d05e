-- Where the keys are published that JWTs are verified with, and the roles that such a JWT may log in as.
create table project_jwks (
  id uuid primary key,
  project_id text not null references projects (id),
  branch_id text references branches (id),   -- null: all branches
  jwks_url text not null,
  provider_name text not null,
  jwt_audience text,                         -- null: any audience
  role_names text[] not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index project_jwks_by_project on project_jwks (project_id, created_at, id);

-- A pending role that is to have no rights of its own; the others become members of neon_superuser.
alter table roles add column plain boolean not null default false;
