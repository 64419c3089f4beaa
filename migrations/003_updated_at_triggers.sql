-- ============================================================================
-- Migration 003: updated_at keeps itself
--
-- Until now each query had to remember to set updated_at, and some forgot. A
-- trigger cannot forget.
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

-- The tables are named here, not looked up in the catalogue by their columns:
-- other programs may keep tables in this schema, and theirs are not ours to change.
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
