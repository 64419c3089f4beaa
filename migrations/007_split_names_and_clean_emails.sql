-- ============================================================================
-- Migration 007: split names, clean e-mail addresses
--
-- We want to sort by family name, and some mailboxes were entered several times,
-- with different capitals and blanks. This file adds the columns, fills them, and
-- only then adds the constraints that keep them correct.
--
-- It works in batches and reports each one with RAISE NOTICE, which the log shows
-- at once, so that you can watch the progress of a deployment. All batches commit
-- together with the row in the migration history; a failure undoes all of them.
-- ============================================================================

ALTER TABLE people
    ADD COLUMN given_name text,
    ADD COLUMN family_name text;

-- A backfill is not an edit: updated_at must not say that everybody was edited
-- today.
ALTER TABLE people DISABLE TRIGGER people_set_updated_at;

DO $$
DECLARE
    batch_size  CONSTANT integer := 4000;
    total       bigint;
    done        bigint := 0;
    in_batch    bigint;
    last_id     bigint := 0;
    next_id     bigint;
    doubles     bigint;
BEGIN
    SELECT count(*) INTO total FROM people;

    -- Step through the primary key. OFFSET would read all earlier rows again for
    -- each batch, and would skip rows if others delete some at the same time.
    LOOP
        SELECT max(id) INTO next_id
        FROM (SELECT id FROM people WHERE id > last_id ORDER BY id LIMIT batch_size) AS batch;
        EXIT WHEN next_id IS NULL;

        -- The last word is the family name. A name with one word has none.
        UPDATE people
        SET email       = nullif(lower(btrim(email)), ''),
            given_name  = regexp_replace(full_name, '\s+\S+$', ''),
            family_name = substring(full_name FROM '\s(\S+)$')
        WHERE id > last_id AND id <= next_id;

        GET DIAGNOSTICS in_batch = ROW_COUNT;
        done := done + in_batch;
        last_id := next_id;
        RAISE NOTICE 'backfilled % of % people', done, total;
    END LOOP;

    -- If several people have the same mailbox, the oldest entry keeps it. The others
    -- lose only a copy.
    UPDATE people AS younger
    SET email = NULL
    WHERE EXISTS (
        SELECT 1
        FROM people AS older
        WHERE older.company_id = younger.company_id
          AND older.email = younger.email
          AND older.id < younger.id
    );
    GET DIAGNOSTICS doubles = ROW_COUNT;
    RAISE NOTICE 'removed % e-mail addresses that a colleague already had', doubles;
END
$$;

ALTER TABLE people ENABLE TRIGGER people_set_updated_at;

-- From now on, the database refuses what we have just cleaned up.
ALTER TABLE people
    ALTER COLUMN given_name SET NOT NULL,
    ADD CONSTRAINT people_email_clean CHECK (email = lower(btrim(email)) AND email <> ''),
    ADD CONSTRAINT people_email_key UNIQUE (company_id, email);

CREATE INDEX people_family_name_idx ON people (family_name, given_name);

COMMENT ON COLUMN people.email IS 'Lower case, without blanks, unique within a company. May be missing.';
COMMENT ON COLUMN people.full_name IS 'As the person writes it; shown, but not sorted by.';
COMMENT ON COLUMN people.family_name IS 'NULL for people who have one name only.';
