-- The catalog: what the control plane knows. PostgreSQL 14 or newer; every table lives in schema `ballast`,
-- which the migration runner creates and puts first in the search_path of its sessions.
--
-- Conventions: API enums are text with the API's own words; times are timestamptz; soft deletion is deleted_at.
-- roles.state and databases.state carry pending work: rows not `ready` are what apply_config (or the next
-- start_compute) still has to do inside Postgres. Postgres itself is the truth for everything `ready`.

create table users (
  id uuid primary key,
  email text not null unique,
  name text not null,
  last_name text not null default '',
  created_at timestamptz not null default now()
);

create table organizations (
  id text primary key,
  name text not null,
  handle text not null unique,
  plan text not null default 'scale',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create table api_keys (
  id bigint generated always as identity primary key,
  name text not null,
  key_hash bytea not null unique,            -- sha256 of the whole key; keys are 357 bits, so no salt is needed
  kind text not null default 'personal' check (kind in ('personal', 'organization', 'project')),
  org_id text references organizations (id),
  project_id text,
  created_by uuid not null references users (id),
  created_at timestamptz not null default now(),
  last_used_at timestamptz,
  last_used_from_addr text not null default '',
  revoked_at timestamptz
);

create table projects (
  id text primary key,
  number bigint generated always as identity unique,  -- small integer; the engine derives the project's uid from it
  node_id text not null,                              -- the machine that owns its timelines
  org_id text not null references organizations (id),
  owner_id uuid not null references users (id),
  name text not null,
  region_id text not null,
  provisioner text not null default 'k8s-neonvm',
  pg_version integer not null check (pg_version between 14 and 18),
  store_passwords boolean not null default true,
  history_retention_seconds bigint not null default 86400,
  default_endpoint_settings jsonb not null,
  settings jsonb not null,
  creation_source text not null default 'console',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  compute_last_active_at timestamptz,
  deleted_at timestamptz
);
create index projects_by_org on projects (org_id, created_at desc, id desc) where deleted_at is null;

create table branches (
  id text primary key,
  project_id text not null references projects (id),
  parent_id text references branches (id),
  name text not null,
  current_state text not null check (current_state in ('init', 'ready', 'resetting', 'archived')),
  pending_state text,
  state_changed_at timestamptz not null default now(),
  is_default boolean not null default false,
  protected boolean not null default false,
  init_source text not null default 'parent-data',
  parent_lsn text,
  parent_timestamp timestamptz,
  logical_size_bytes bigint,
  expires_at timestamptz,
  ttl_interval_seconds bigint,
  last_reset_at timestamptz,
  annotation jsonb,                          -- the flat string map of annotation_value
  annotation_updated_at timestamptz,
  creation_source text not null default 'console',
  created_by uuid references users (id),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create unique index branches_name on branches (project_id, name) where deleted_at is null;
create unique index branches_default on branches (project_id) where is_default and deleted_at is null;
create index branches_children on branches (parent_id) where deleted_at is null;

create table endpoints (
  id text primary key,
  project_id text not null references projects (id),
  branch_id text not null references branches (id),
  type text not null check (type in ('read_write', 'read_only')),
  name text,
  current_state text not null check (current_state in ('init', 'active', 'idle')),
  pending_state text check (pending_state in ('active', 'idle')),
  autoscaling_limit_min_cu double precision not null,
  autoscaling_limit_max_cu double precision not null,
  suspend_timeout_seconds bigint not null default 0,
  settings jsonb not null default '{}',
  pooler_enabled boolean not null default false,
  disabled boolean not null default false,
  passwordless_access boolean not null default true,
  region_id text not null,
  creation_source text not null default 'console',
  last_active timestamptz,
  started_at timestamptz,
  suspended_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create unique index endpoints_one_read_write on endpoints (branch_id)
  where type = 'read_write' and deleted_at is null;
create index endpoints_by_project on endpoints (project_id, created_at) where deleted_at is null;
create index endpoints_by_branch on endpoints (branch_id) where deleted_at is null;

create table roles (
  project_id text not null references projects (id),
  branch_id text not null references branches (id),
  name text not null,
  state text not null default 'ready' check (state in ('ready', 'creating', 'updating', 'deleting')),
  verifier text,                             -- SCRAM verifier as in pg_authid; null: cannot log in with a password
  sealed_password bytea,                     -- null when not stored or set by SQL; see lib/secret-box.ts
  no_login boolean not null default false,
  protected boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (branch_id, name)
);

create table databases (
  id bigint generated always as identity primary key,
  project_id text not null references projects (id),
  branch_id text not null references branches (id),
  name text not null,
  owner_name text not null,
  state text not null default 'ready' check (state in ('ready', 'creating', 'updating', 'deleting')),
  applied_name text,                         -- its name inside Postgres, where that differs from name (rename pending)
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (branch_id, name)
);

-- The public operations are the queue. Work of one branch runs in order of seq; different branches in parallel.
create table operations (
  id uuid primary key,
  seq bigint generated always as identity unique,
  project_id text not null references projects (id),
  branch_id text references branches (id),
  endpoint_id text references endpoints (id),
  action text not null,
  status text not null default 'scheduling'
    check (status in ('scheduling', 'running', 'finished', 'failed', 'error', 'cancelling', 'cancelled', 'skipped')),
  payload jsonb not null default '{}',
  failures_count integer not null default 0,
  error text,
  retry_at timestamptz,
  lease_owner text,
  lease_until timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz
);
create index operations_unfinished on operations (branch_id, seq)
  where status in ('scheduling', 'running', 'cancelling');
-- What the runner claims from, oldest first, however many ended ones there are.
create index operations_runnable on operations (seq)
  where status in ('scheduling', 'running', 'cancelling');
create index operations_by_project on operations (project_id, created_at desc, id desc);
create index operations_by_endpoint on operations (endpoint_id)
  where status in ('scheduling', 'running', 'cancelling');
