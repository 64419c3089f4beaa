-- Functions for operators and for replicas of the earlier system. Our own program calls none of them, because a
-- migration may replace them. Their names and parameters are exactly the earlier system's: its script, run as a
-- migration, uses CREATE OR REPLACE, which fails if they differ (42P13).
--
-- {lock_key} is the key of the guard's advisory lock, {session_key} that of a session that works outside a transaction.
-- Taking them for an instant shows whether the holder is alive.

CREATE OR REPLACE FUNCTION {schema}.is_migration_locked() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN EXISTS (SELECT FROM {schema}.migration_lock WHERE id = 1 AND locked_at IS NOT NULL);
END
$function$;

-- A replica of the earlier system takes the row without a token, and only if it is free or its holder is dead.
CREATE OR REPLACE FUNCTION {schema}.acquire_migration_lock(lock_holder varchar, pid integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    held {schema}.migration_lock%ROWTYPE;
BEGIN
    SELECT * INTO held FROM {schema}.migration_lock WHERE id = 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF held.token IS NULL AND held.locked_at IS NOT NULL THEN
        RETURN false;
    END IF;
    IF NOT (pg_catalog.pg_try_advisory_xact_lock_shared({lock_key})
            AND pg_catalog.pg_try_advisory_xact_lock({session_key})) THEN
        RETURN false;
    END IF;
    UPDATE {schema}.migration_lock
    SET locked_at = pg_catalog.clock_timestamp(), locked_by = lock_holder, process_id = pid,
        {nothing_added}
    WHERE id = 1;
    RETURN true;
END
$function$;

-- Frees only a row without a token, because the earlier system calls this even if it never held the lock.
CREATE OR REPLACE FUNCTION {schema}.release_migration_lock() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM FROM {schema}.migration_lock WHERE id = 1 AND token IS NULL FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE {schema}.migration_lock SET {no_holder} WHERE id = 1;
    END IF;
END
$function$;

-- A row with a token is stale as soon as its holder's guard is gone; a row without one is stale after 10 minutes.
CREATE OR REPLACE FUNCTION {schema}.release_stale_migration_locks() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    held {schema}.migration_lock%ROWTYPE;
BEGIN
    SELECT * INTO held FROM {schema}.migration_lock WHERE id = 1 AND locked_at IS NOT NULL FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    IF held.token IS NOT NULL THEN
        IF NOT (pg_catalog.pg_try_advisory_xact_lock_shared({lock_key})
                AND pg_catalog.pg_try_advisory_xact_lock({session_key})) THEN
            RETURN 0;
        END IF;
    ELSIF held.locked_at >= pg_catalog.clock_timestamp() - interval '10 minutes' THEN
        RETURN 0;
    END IF;
    UPDATE {schema}.migration_lock
    SET {no_holder}, {nothing_added}
    WHERE id = 1;
    RETURN 1;
END
$function$;
