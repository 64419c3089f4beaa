-- ============================================================================
-- Migration 008: full text search
--
-- One box that finds devices by name, model, serial number or note, with what
-- PostgreSQL brings along: no extension, no second system to keep in step.
-- ============================================================================

-- A generated column cannot go stale, and needs no trigger. The configuration
-- is 'simple' since names and serial numbers are not English prose, and it is
-- written out since a generated column must not depend on a setting.
ALTER TABLE devices
    ADD COLUMN search tsvector GENERATED ALWAYS AS (
        setweight(to_tsvector('simple', name || ' ' || serial_number), 'A')
        || setweight(to_tsvector('simple', coalesce(manufacturer, '') || ' ' || coalesce(model, '')), 'B')
        || setweight(to_tsvector('simple', coalesce(notes, '')), 'C')
    ) STORED;

CREATE INDEX devices_search_idx ON devices USING gin (search);

CREATE FUNCTION search_devices(query text, for_company bigint, max_results integer DEFAULT 20)
RETURNS SETOF devices
LANGUAGE sql
STABLE
AS $$
    SELECT devices.*
    FROM devices, websearch_to_tsquery('simple', query) AS wanted
    WHERE devices.search @@ wanted
      AND devices.company_id = for_company
    ORDER BY ts_rank(devices.search, wanted) DESC, devices.id
    LIMIT max_results
$$;

-- People are looked up while their name is being typed. text_pattern_ops lets
-- LIKE 'kow%' use the index whatever the collation of the database is.
CREATE INDEX people_family_name_prefix_idx ON people (lower(family_name) text_pattern_ops);

COMMENT ON COLUMN devices.search IS 'For search_devices(): name and serial number weigh most, notes least.';
COMMENT ON FUNCTION search_devices(text, bigint, integer)
    IS 'Devices of one company that match a web-style query ("exact words", -not, or), best first.';
