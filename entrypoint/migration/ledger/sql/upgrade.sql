-- Make the earlier system's tables like our own. Runs only if something differs; every statement may be repeated.
-- Lock the tables in the order in which a contender reads them. In the opposite order, the two would deadlock (40P01).
LOCK TABLE {schema}.migration_lock, {schema}.schema_migrations IN ACCESS EXCLUSIVE MODE;

-- PostgreSQL changes neither a column's type under a view (0A000) nor the columns of a view (42P16). So the view is
-- dropped here and created again afterwards, but only if necessary: that loses the privileges on it, and fails if
-- anything depends on it (2BP01).
DO $view$
DECLARE
    ledger CONSTANT oid := ({schema_literal} || '.schema_migrations')::regclass;
    number_type CONSTANT text := (SELECT atttypid::regtype FROM pg_catalog.pg_attribute
                                  WHERE attrelid = ledger AND attname = 'migration_number');
    sum_type CONSTANT text := (SELECT CASE WHEN atttypid IN ('int2'::regtype, 'int4'::regtype) THEN 'bigint' ELSE 'numeric' END
                               FROM pg_catalog.pg_attribute WHERE attrelid = ledger AND attname = 'execution_time_ms');
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = ledger AND attname = 'applied_at'
                                                     AND atttypid <> 'timestamptz'::regtype)
       OR ARRAY['total_migrations bigint', 'latest_migration ' || number_type,
                'last_migration_time timestamp with time zone', 'total_execution_time_ms ' || coalesce(sum_type, 'bigint'),
                'failed_migrations bigint']
          IS DISTINCT FROM ARRAY(SELECT attname || ' ' || atttypid::regtype FROM pg_catalog.pg_attribute
                                 WHERE attrelid = to_regclass({schema_literal} || '.migration_status') AND attnum > 0
                                 ORDER BY attnum)
    THEN
        DROP VIEW IF EXISTS {schema}.migration_status;
    END IF;
END
$view$;

ALTER TABLE {schema}.schema_migrations
    ADD COLUMN IF NOT EXISTS application_version text,
    ADD COLUMN IF NOT EXISTS execution_time_ms integer,
    ADD COLUMN IF NOT EXISTS status text DEFAULT 'completed',
    ADD COLUMN IF NOT EXISTS error_message text,
    ADD COLUMN IF NOT EXISTS checksum varchar(64),
    {added_to_ledger};

ALTER TABLE {schema}.migration_lock
    {added_columns};

DO $upgrade$
DECLARE
    -- The default time zone of sessions, in which the earlier system wrote its times without a zone. This session's
    -- own may have been changed.
    server_zone CONSTANT text := (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone');
    tables CONSTANT oid[] := ARRAY[{schema_literal} || '.schema_migrations', {schema_literal} || '.migration_lock']::regclass[];
    found record;
BEGIN
    FOR found IN
        SELECT a.attrelid::regclass AS relation, a.attname AS name, a.atttypid::regtype AS type
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = ANY (tables) AND a.attnum > 0 AND NOT a.attisdropped
          AND (a.attname IN ('applied_at', 'locked_at') AND a.atttypid = 'timestamp'::regtype
               OR a.attname = 'application_version' AND a.atttypid <> 'text'::regtype)
    LOOP
        IF found.type = 'timestamp'::regtype THEN
            EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I TYPE timestamptz USING %2$I AT TIME ZONE %L',
                                      found.relation, found.name, server_zone);
        ELSE
            EXECUTE pg_catalog.format('ALTER TABLE %s ALTER COLUMN %I TYPE text', found.relation, found.name);
        END IF;
    END LOOP;
END
$upgrade$;
