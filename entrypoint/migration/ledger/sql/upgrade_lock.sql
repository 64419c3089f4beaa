
-- Like upgrade.sql, but only for the lock's table. The earlier system's has times without a zone, in the default time
-- zone of sessions.
ALTER TABLE {schema}.migration_lock
    {added_columns};

DO $upgrade$
DECLARE
    relation CONSTANT regclass := {schema_literal} || '.migration_lock';
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = relation AND a.attname = 'locked_at' AND a.atttypid = 'timestamp'::regtype) THEN
        EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN locked_at TYPE timestamptz USING locked_at AT TIME ZONE %L',
                                  relation, (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'));
    END IF;
END
$upgrade$;
