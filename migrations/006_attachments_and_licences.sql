-- ============================================================================
-- Migration 006: device attachments and software licences
--
-- Invoices and photographs of devices, and who may use which software.
--
-- This file has its own BEGIN and COMMIT, like files that were first run with
-- psql. It does not need them: every migration runs in one transaction anyway.
-- The outer pair is recognized and left out, so that the file still commits
-- together with its row in the migration history.
-- ============================================================================

BEGIN;

CREATE TABLE device_attachments (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id     bigint NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    uploaded_by   bigint REFERENCES users (id) ON DELETE SET NULL,
    file_name     text NOT NULL CHECK (file_name !~ '[/\\]'),
    content_type  text NOT NULL DEFAULT 'application/octet-stream',
    size_bytes    bigint NOT NULL CHECK (size_bytes >= 0),
    sha256        bytea NOT NULL CHECK (octet_length(sha256) = 32),
    created_at    timestamptz NOT NULL DEFAULT now(),

    -- The same file for the same device was uploaded twice.
    UNIQUE (device_id, sha256)
);

CREATE TABLE software_licences (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id    bigint NOT NULL REFERENCES companies (id) ON DELETE CASCADE,
    product       text NOT NULL CHECK (btrim(product) <> ''),
    seats         integer NOT NULL CHECK (seats > 0),
    valid_during  daterange NOT NULL CHECK (NOT isempty(valid_during)),
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX software_licences_company_id_idx ON software_licences (company_id);

CREATE TABLE licence_assignments (
    licence_id   bigint NOT NULL REFERENCES software_licences (id) ON DELETE CASCADE,
    device_id    bigint NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    assigned_at  timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (licence_id, device_id)
);

-- The primary key is for lookups by licence, this index for lookups by device.
CREATE INDEX licence_assignments_device_id_idx ON licence_assignments (device_id);

CREATE FUNCTION check_licence_seats()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    allowed  integer;
    used     integer;
BEGIN
    -- The lock makes two assignments of the last seat wait for each other. Without
    -- it, both would count before either commits, and both would succeed.
    SELECT seats INTO allowed FROM software_licences WHERE id = NEW.licence_id FOR NO KEY UPDATE;
    SELECT count(*) INTO used FROM licence_assignments WHERE licence_id = NEW.licence_id;

    IF used >= allowed THEN
        RAISE EXCEPTION 'all % seats of licence % are taken', allowed, NEW.licence_id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER licence_assignments_seats
    BEFORE INSERT ON licence_assignments
    FOR EACH ROW EXECUTE FUNCTION check_licence_seats();

CREATE TRIGGER software_licences_set_updated_at
    BEFORE UPDATE ON software_licences FOR EACH ROW EXECUTE FUNCTION set_updated_at();

INSERT INTO software_licences (company_id, product, seats, valid_during)
SELECT companies.id, products.product, products.seats, daterange('2024-01-01', '2027-01-01')
FROM companies
CROSS JOIN (VALUES ('Sheet Editor', 150), ('Drawing Board', 20)) AS products (product, seats)
ORDER BY companies.id, products.product;

INSERT INTO licence_assignments (licence_id, device_id)
SELECT software_licences.id, numbered.id
FROM software_licences
JOIN (
    SELECT id, company_id, row_number() OVER (PARTITION BY company_id ORDER BY id) AS position
    FROM devices
    WHERE kind = 'laptop' AND status = 'in_use'
) AS numbered
    ON numbered.company_id = software_licences.company_id
   AND numbered.position <= software_licences.seats - 5;

COMMENT ON TABLE device_attachments IS 'Files that belong to a device.';
COMMENT ON COLUMN device_attachments.sha256 IS 'The key of the bytes, which are in object storage.';
COMMENT ON TABLE software_licences IS 'What a company has bought.';
COMMENT ON COLUMN software_licences.valid_during IS 'First day included, last day not.';
COMMENT ON TABLE licence_assignments IS 'Which device uses a seat of which licence.';

COMMIT;
