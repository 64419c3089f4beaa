-- ============================================================================
-- Migration 009: audit log
--
-- Who changed what, and when. Triggers record it, so that no code path and no
-- manual UPDATE is missed.
-- ============================================================================

CREATE TABLE audit_log (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    occurred_at  timestamptz NOT NULL DEFAULT now(),
    table_name   text NOT NULL,
    row_id       bigint NOT NULL,
    action       text NOT NULL CHECK (action IN ('INSERT', 'UPDATE', 'DELETE')),
    user_id      bigint,
    changes      jsonb NOT NULL
);

CREATE INDEX audit_log_row_idx ON audit_log (table_name, row_id, id);

-- Rows arrive in the order of time, so a BRIN index is enough. It stays a few pages
-- long, however large the log becomes.
CREATE INDEX audit_log_occurred_at_idx ON audit_log USING brin (occurred_at);

-- The trigger's arguments are the columns that must not be logged: secrets, and
-- values that are only derived from others.
CREATE FUNCTION write_audit_log()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    -- TG_ARGV is NULL if the trigger has no arguments, and jsonb - NULL is NULL.
    hidden   CONSTANT text[] := coalesce(TG_ARGV, '{}') || ARRAY['updated_at'];
    before   jsonb := '{}';
    after    jsonb := '{}';
    changed  jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        before := to_jsonb(OLD) - hidden;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        after := to_jsonb(NEW) - hidden;
    END IF;

    SELECT jsonb_object_agg(key, jsonb_build_array(before -> key, after -> key))
    INTO changed
    FROM jsonb_object_keys(before || after) AS key
    WHERE before -> key IS DISTINCT FROM after -> key;

    -- An UPDATE that changes nothing that we log needs no row.
    IF changed IS NOT NULL THEN
        INSERT INTO audit_log (table_name, row_id, action, user_id, changes)
        VALUES (
            TG_TABLE_NAME,
            coalesce((after ->> 'id')::bigint, (before ->> 'id')::bigint),
            TG_OP,
            -- The application runs SET LOCAL app.user_id for each request. Without it
            -- (a migration, somebody in psql), the user is unknown; that is no error.
            nullif(current_setting('app.user_id', true), '')::bigint,
            changed
        );
    END IF;
    RETURN NULL;
END
$$;

DO $$
DECLARE
    target record;
BEGIN
    FOR target IN
        SELECT *
        FROM (
            VALUES ('companies', ''), ('devices', '''search'''), ('users', '''password_hash''')
        ) AS targets (table_name, hidden)
    LOOP
        EXECUTE format(
            'CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %I
             FOR EACH ROW EXECUTE FUNCTION write_audit_log(%s)',
            target.table_name || '_audit',
            target.table_name,
            target.hidden
        );
        RAISE NOTICE 'changes of % are logged from now on', target.table_name;
    END LOOP;
END
$$;

-- Entries cannot be changed. Only the owner of the table, who can drop the
-- trigger, can delete old ones.
CREATE FUNCTION refuse_audit_change()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the audit log can only be added to'
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_log_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();

COMMENT ON TABLE audit_log IS 'One row for each change of a row in an audited table.';
COMMENT ON COLUMN audit_log.user_id IS 'users.id, without a foreign key: an entry outlives the user.';
COMMENT ON COLUMN audit_log.changes IS 'Column name to [before, after]; null where there was or is no row.';
COMMENT ON FUNCTION write_audit_log() IS 'Trigger function: log a change, but for the columns it is given.';
