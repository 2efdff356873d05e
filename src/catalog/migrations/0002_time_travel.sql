-- Time travel. A branch's data is a timeline of the pool; restoring a branch gives it another one, so the two have
-- names of their own. The first timeline of a branch is named after it.

alter table branches add column timeline_id text;
update branches set timeline_id = id;
alter table branches alter column timeline_id set not null;

alter table branches
  -- Roles and databases are to be read back at the next start: the data was put in place since they were read last.
  add column facts_due boolean not null default true,
  add column restored_from text,             -- the snapshot it was made from
  add column restored_as text,               -- the branch that it replaced, or is to replace
  add column restore_status text check (restore_status in ('restored', 'finalized', 'detaching')),
  -- A deleted branch keeps its data until recoverable_until; purged_at: the data is gone, or will be by an operation.
  add column deletion_method text check (deletion_method in ('user', 'ttl')),
  add column recoverable_until timestamptz,
  add column purged_at timestamptz;
update branches set purged_at = deleted_at where deleted_at is not null;
create unique index branches_timeline on branches (timeline_id) where purged_at is null;
create index branches_expiring on branches (expires_at) where expires_at is not null and deleted_at is null;
create index branches_recoverable on branches (recoverable_until) where deleted_at is not null and purged_at is null;

alter table projects
  add column recoverable_until timestamptz,
  add column purged_at timestamptz;
update projects set purged_at = deleted_at where deleted_at is not null;
create index projects_recoverable on projects (recoverable_until) where deleted_at is not null and purged_at is null;

-- A snapshot is a timeline of its own that is never started; it outlives its source branch.
create table snapshots (
  id text primary key,
  project_id text not null references projects (id),
  source_branch_id text not null references branches (id),
  timeline_id text not null unique,
  name text not null,
  state text not null default 'init' check (state in ('init', 'ready', 'failed')),
  manual boolean not null,                   -- false: made by the backup schedule
  lsn text,
  point_timestamp timestamptz,               -- the last commit in it
  full_size_bytes bigint,
  diff_size_bytes bigint,
  expires_at timestamptz,
  created_by uuid references users (id),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index snapshots_by_project on snapshots (project_id, created_at desc) where deleted_at is null;
create index snapshots_by_branch on snapshots (source_branch_id) where deleted_at is null;
create index snapshots_expiring on snapshots (expires_at) where expires_at is not null and deleted_at is null;

create table backup_schedules (
  branch_id text primary key references branches (id),
  project_id text not null references projects (id),
  schedule jsonb not null,                   -- the items exactly as the API has them
  updated_at timestamptz not null default now(),
  last_run_at timestamptz                    -- every time of the schedule up to here has been dealt with
);
