-- ============================================================================
-- Migration 008: full text search
--
-- One search box finds devices by name, model, serial number or note. It needs only
-- PostgreSQL itself: no extension, no second system to keep in sync.
-- ============================================================================

-- A generated column is never out of date, and needs no trigger. The configuration
-- is 'simple' because names and serial numbers are not English prose. It is given
-- explicitly because a generated column must not depend on a setting.
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

-- People are looked up while their name is being typed. With text_pattern_ops,
-- LIKE 'kow%' can use the index whatever the database's collation.
CREATE INDEX people_family_name_prefix_idx ON people (lower(family_name) text_pattern_ops);

COMMENT ON COLUMN devices.search IS 'For search_devices(): name and serial number weigh most, notes least.';
COMMENT ON FUNCTION search_devices(text, bigint, integer)
    IS 'Devices of one company that match a web-style query ("exact words", -not, or), best first.';
