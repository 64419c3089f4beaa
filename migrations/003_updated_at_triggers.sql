-- ============================================================================
-- Migration 003: triggers maintain updated_at
--
-- Until now, every query had to set updated_at, and some did not. A trigger never
-- forgets.
-- ============================================================================

CREATE FUNCTION set_updated_at()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION set_updated_at() IS 'Trigger function: set updated_at to the time of the transaction.';

-- The tables are listed here, not looked up in the catalogs by their columns:
-- other programs may have tables in this schema, which we must not change.
DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['companies', 'people', 'devices', 'users'] LOOP
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION set_updated_at()',
            table_name || '_set_updated_at',
            table_name
        );
    END LOOP;
END
$$;
