-- ============================================================================
-- Migration 010: views for the overview pages
--
-- The same three joins existed in many places, each a little different. Views give
-- them one name and one meaning.
-- ============================================================================

-- Counted in subqueries, one for each table: joining both people and devices to
-- companies would multiply the counts.
CREATE VIEW company_overview AS
SELECT
    companies.id,
    companies.name,
    companies.country,
    (SELECT count(*) FROM people WHERE people.company_id = companies.id) AS people,
    (SELECT count(*) FROM devices WHERE devices.company_id = companies.id AND status <> 'retired') AS devices,
    (SELECT count(*) FROM networks WHERE networks.company_id = companies.id) AS networks
FROM companies;

CREATE VIEW device_inventory AS
SELECT
    devices.id,
    devices.company_id,
    devices.name,
    devices.kind,
    devices.status,
    devices.manufacturer,
    devices.model,
    devices.serial_number,
    people.full_name AS assigned_to,
    addresses.addresses,
    age(devices.purchased_on) AS age
FROM devices
LEFT JOIN people ON people.id = devices.assigned_to
LEFT JOIN LATERAL (
    SELECT array_agg(ip_addresses.address ORDER BY ip_addresses.address) AS addresses
    FROM ip_addresses
    WHERE ip_addresses.device_id = devices.id
) AS addresses ON true;

CREATE VIEW licence_usage AS
SELECT
    software_licences.id,
    software_licences.company_id,
    software_licences.product,
    software_licences.seats,
    count(licence_assignments.device_id) AS used,
    software_licences.seats - count(licence_assignments.device_id) AS free,
    software_licences.valid_during @> current_date AS valid
FROM software_licences
LEFT JOIN licence_assignments ON licence_assignments.licence_id = software_licences.id
GROUP BY software_licences.id;

COMMENT ON VIEW company_overview IS 'Each company and how much it has; retired devices are not counted.';
COMMENT ON VIEW device_inventory IS 'Each device with who uses it and its addresses.';
COMMENT ON COLUMN device_inventory.addresses IS 'NULL, not an empty array, if the device has none.';
COMMENT ON VIEW licence_usage IS 'Seats bought, used and free for each licence.';
