-- ============================================================================
-- Migration 001: initial schema
--
-- Companies, the people who work there, and the devices they use. Everything
-- else in this application refers to these three tables.
--
-- There is no IF NOT EXISTS, on purpose: if one of these tables already exists,
-- something is not as we expect. The migration should then fail, not continue
-- with a table of unknown shape.
-- ============================================================================

CREATE TABLE companies (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL CHECK (btrim(name) <> ''),
    country     text NOT NULL CHECK (country ~ '^[A-Z]{2}$'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- Two companies whose names differ only in case are one company, entered twice.
CREATE UNIQUE INDEX companies_name_key ON companies (lower(name));

CREATE TABLE people (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id  bigint NOT NULL REFERENCES companies (id) ON DELETE CASCADE,
    full_name   text NOT NULL CHECK (btrim(full_name) <> ''),
    email       text,
    job_title   text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- PostgreSQL creates no index for a foreign key. Without one, deleting a company
-- would read all of people.
CREATE INDEX people_company_id_idx ON people (company_id);

CREATE TABLE devices (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id     bigint NOT NULL REFERENCES companies (id) ON DELETE CASCADE,
    assigned_to    bigint REFERENCES people (id) ON DELETE SET NULL,
    name           text NOT NULL CHECK (btrim(name) <> ''),
    kind           text NOT NULL
                   CHECK (kind IN ('laptop', 'desktop', 'phone', 'printer', 'server', 'network')),
    status         text NOT NULL DEFAULT 'in_use'
                   CHECK (status IN ('in_stock', 'in_use', 'in_repair', 'retired')),
    manufacturer   text,
    model          text,
    serial_number  text NOT NULL,
    purchased_on   date,
    notes          text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),

    UNIQUE (company_id, serial_number)
);

-- Devices without a person are never looked up by person, so they are left out.
CREATE INDEX devices_assigned_to_idx ON devices (assigned_to) WHERE assigned_to IS NOT NULL;

COMMENT ON TABLE companies IS 'Customers: each owns its people, devices and networks.';
COMMENT ON COLUMN companies.country IS 'ISO 3166-1 alpha-2, upper case.';

COMMENT ON TABLE people IS 'Employees of a company. Not everybody here can log in: see users.';
COMMENT ON COLUMN people.email IS 'As it was typed in. May be missing.';

COMMENT ON TABLE devices IS 'Everything with a serial number.';
COMMENT ON COLUMN devices.assigned_to IS 'Who uses it; NULL for shared devices and for those in stock.';
COMMENT ON COLUMN devices.serial_number IS 'The manufacturer''s number, unique within one company.';
