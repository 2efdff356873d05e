-- What a restore that was asked for early waits for.
create index operations_unfinished_snapshots on operations ((payload ->> 'snapshotId'))
  where status in ('scheduling', 'running', 'cancelling');
