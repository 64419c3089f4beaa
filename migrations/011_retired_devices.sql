-- ============================================================================
-- Migration 011: retired devices have a date and no user
--
-- A retired device could still be assigned to somebody, and nothing recorded when
-- it was retired. This fixes the existing rows and adds the constraint.
-- ============================================================================

ALTER TABLE devices ADD COLUMN retired_on date;

-- The day was never recorded. Accounting assumes four years after purchase, but
-- the day cannot be later than today. The audit log gets an entry for each row,
-- without a user, which is correct.
UPDATE devices
SET retired_on  = least(coalesce(purchased_on + interval '4 years', created_at)::date, current_date),
    assigned_to = NULL
WHERE status = 'retired';

-- In two steps. NOT VALID adds the constraint for new rows without reading the
-- table; VALIDATE reads it under a lock that lets others write. In one transaction,
-- as here, the stronger lock is held to the end anyway: for a large table, put
-- VALIDATE into the next migration.
ALTER TABLE devices
    ADD CONSTRAINT devices_retired_consistent
    CHECK ((status = 'retired') = (retired_on IS NOT NULL) AND (status <> 'retired' OR assigned_to IS NULL))
    NOT VALID;

ALTER TABLE devices VALIDATE CONSTRAINT devices_retired_consistent;

-- One function that does it right, so that not every caller has to know the rule.
CREATE FUNCTION retire_device(device bigint, retired date DEFAULT current_date)
RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE devices
    SET status = 'retired', retired_on = retired, assigned_to = NULL
    WHERE id = device AND status <> 'retired';

    IF NOT FOUND THEN
        RETURN false;
    END IF;

    -- A retired device frees its seats and its addresses.
    DELETE FROM licence_assignments WHERE device_id = device;
    UPDATE ip_addresses SET device_id = NULL WHERE device_id = device;
    RETURN true;
END
$$;

-- The lists show devices that are in use. An index without the retired ones is
-- smaller, and stays small over the years.
CREATE INDEX devices_active_idx ON devices (company_id, kind, name) WHERE status <> 'retired';

COMMENT ON COLUMN devices.retired_on IS 'Set exactly if status is retired.';
COMMENT ON FUNCTION retire_device(bigint, date)
    IS 'Retire a device and free what it held; false if it is unknown or already retired.';
