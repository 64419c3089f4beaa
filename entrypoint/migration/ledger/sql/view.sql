-- A view for operators. Our own program does not use it, because a migration may replace it. The names and types of its
-- columns are exactly the earlier system's: its script, run as a migration, uses CREATE OR REPLACE, which fails if they
-- differ (42P16). So `latest_migration` has the type of `migration_number`, without a cast.
CREATE OR REPLACE VIEW {schema}.migration_status AS
SELECT count(*) AS total_migrations,
       max(migration_number) AS latest_migration,
       max(applied_at) AS last_migration_time,
       coalesce(sum(execution_time_ms), 0) AS total_execution_time_ms,
       coalesce(sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END), 0) AS failed_migrations
FROM {schema}.schema_migrations;
