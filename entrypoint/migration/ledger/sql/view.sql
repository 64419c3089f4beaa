-- What operators use, and our own program does not, because a migration may replace it. Names and types of its columns are
-- exactly the earlier system's: its own script, run as a migration, says CREATE OR REPLACE, which fails where they differ
-- (42P16). So `latest_migration` has the type that `migration_number` has, and no cast.
CREATE OR REPLACE VIEW {schema}.migration_status AS
SELECT count(*) AS total_migrations,
       max(migration_number) AS latest_migration,
       max(applied_at) AS last_migration_time,
       coalesce(sum(execution_time_ms), 0) AS total_execution_time_ms,
       coalesce(sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END), 0) AS failed_migrations
FROM {schema}.schema_migrations;
