-- ============================================================================
-- Migration 005: sample data
--
-- Gives the example something to show: companies, some thousand people and
-- devices, a few networks. A real application keeps such data out of its
-- migrations; here, the data migration 007 needs something to work on.
--
-- Everything is computed from row numbers, nothing from random(). So all databases
-- get the same rows, which makes tests and bug reports easy.
--
-- The e-mail addresses are as people type them (capitals, blanks, duplicates), and
-- some names have one word or four. 007 cleans this up.
-- ============================================================================

INSERT INTO companies (name, country)
SELECT
    (ARRAY['Amber', 'Birch', 'Cobalt', 'Dune', 'Ember', 'Fjord', 'Granite', 'Harbour'])[1 + (n - 1) % 8]
        || ' '
        || (ARRAY['Logistics', 'Foods', 'Robotics', 'Energy', 'Press'])[1 + (n - 1) / 8],
    (ARRAY['AT', 'CZ', 'DK', 'FR', 'JP', 'MX', 'NZ'])[1 + n % 7]
FROM generate_series(1, 40) AS n;

INSERT INTO people (company_id, full_name, email, job_title)
SELECT
    companies.id,
    names.full_name,
    CASE
        WHEN n % 97 = 0 THEN NULL
        WHEN n % 89 = 0 THEN '   '
        -- The same mailbox as the previous person's, written differently.
        WHEN n % 1500 = 1 AND n > 1 THEN format('Person.%s@%s', n - 1, companies.domain)
        WHEN n % 3 = 0 THEN format('  Person.%s@%s', n, upper(companies.domain))
        ELSE format('person.%s@%s', n, companies.domain)
    END,
    (ARRAY['Analyst', 'Buyer', 'Driver', 'Engineer', 'Manager', 'Technician'])[1 + n % 6]
FROM generate_series(1, 24000) AS n
-- 600 people per company, so that people with neighbouring n are colleagues.
JOIN (
    SELECT
        id,
        row_number() OVER (ORDER BY id) AS position,
        replace(lower(name), ' ', '-') || '.example' AS domain
    FROM companies
) AS companies ON companies.position = 1 + (n - 1) / 600
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN n % 400 = 0 THEN 'Sukarno'
        WHEN n % 350 = 0 THEN 'Juana Inés de Asbaje'
        ELSE (ARRAY['Ada', 'Bram', 'Chiara', 'Dmitri', 'Elif', 'Farid', 'Greta', 'Hana', 'Ivo', 'Jun',
                    'Kofi', 'Lena'])[1 + n % 12]
             || ' '
             || (ARRAY['Almeida', 'Bauer', 'Costa', 'Dvořák', 'Eriksen', 'Fischer', 'Gupta', 'Haddad',
                       'Ito', 'Jansen', 'Kowalski', 'Lindqvist', 'Moreau'])[1 + (n / 12) % 13]
    END AS full_name
) AS names
ORDER BY n;

INSERT INTO devices
    (company_id, assigned_to, name, kind, status, manufacturer, model, serial_number, purchased_on)
SELECT
    people.company_id,
    CASE WHEN kinds.kind IN ('laptop', 'phone') AND people.id % 25 <> 0 THEN people.id END,
    format('%s-%s', kinds.kind, lpad(people.id::text, 5, '0')),
    kinds.kind,
    CASE
        WHEN people.id % 25 = 0 THEN 'retired'
        WHEN people.id % 40 = 0 THEN 'in_repair'
        WHEN kinds.kind IN ('desktop', 'printer') AND people.id % 9 = 0 THEN 'in_stock'
        ELSE 'in_use'
    END,
    makers.manufacturer,
    makers.manufacturer || ' ' || upper(left(kinds.kind, 2)) || (100 + people.id % 9 * 10),
    format('%s%s', upper(left(makers.manufacturer, 2)), lpad((people.id * 7919 % 1000003)::text, 7, '0')),
    date '2019-01-07' + (people.id % 2200)::integer
FROM people
CROSS JOIN LATERAL (
    SELECT (ARRAY['laptop', 'phone', 'laptop', 'desktop', 'printer', 'laptop', 'phone', 'server', 'laptop',
                  'network'])[1 + people.id % 10] AS kind
) AS kinds
CROSS JOIN LATERAL (
    SELECT (ARRAY['Kestrel', 'Lumen', 'Orbit', 'Pallas'])[1 + people.id % 4] AS manufacturer
) AS makers
WHERE people.id % 3 = 0
ORDER BY people.id;

INSERT INTO networks (company_id, name, range, gateway, vlan)
SELECT
    companies.id,
    kinds.name,
    set_masklen(kinds.base + companies.id * 65536, 24)::cidr,
    kinds.base + companies.id * 65536 + 1,
    kinds.vlan
FROM companies
CROSS JOIN (
    VALUES ('office', inet '10.0.16.0', 16), ('printers', inet '10.0.32.0', 32)
) AS kinds (name, base, vlan)
ORDER BY companies.id, kinds.vlan;

-- The first two hundred desktops, printers and servers of each company get a
-- fixed address; .1 is the gateway.
INSERT INTO ip_addresses (network_id, device_id, address, host_name)
SELECT networks.id, numbered.id, host(networks.range)::inet + 1 + numbered.position, numbered.name
FROM networks
JOIN (
    SELECT
        id, company_id, name, kind,
        row_number() OVER (PARTITION BY company_id, kind = 'printer' ORDER BY id) AS position
    FROM devices
    WHERE kind IN ('desktop', 'printer', 'server')
) AS numbered
    ON numbered.company_id = networks.company_id
   AND numbered.position <= 200
   AND networks.name = CASE numbered.kind WHEN 'printer' THEN 'printers' ELSE 'office' END;

-- One administrator and two colleagues for each of the first companies. They
-- have no password, so somebody has to invite them.
INSERT INTO users (person_id, email, role)
SELECT id, format('user.%s@sample.example', id), CASE position WHEN 1 THEN 'admin' ELSE 'editor' END
FROM (
    SELECT id, company_id, row_number() OVER (PARTITION BY company_id ORDER BY id) AS position
    FROM people
) AS numbered
WHERE position <= 3 AND company_id <= 10
ORDER BY id;
