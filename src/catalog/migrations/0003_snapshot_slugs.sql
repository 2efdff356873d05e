-- The name by which a user addresses a snapshot, where one was given.
alter table snapshots add column slug text;
create unique index snapshots_slug on snapshots (project_id, slug) where deleted_at is null and slug is not null;
create index operations_unfinished_sources on operations ((payload ->> 'parentTimelineId'))
  where status in ('scheduling', 'running', 'cancelling');
