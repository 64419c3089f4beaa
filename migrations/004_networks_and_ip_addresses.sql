-- ============================================================================
-- Migration 004: networks and IP addresses
--
-- Which addresses a company has, and which device uses which address. The types
-- cidr, inet and macaddr do the checking and the arithmetic.
-- ============================================================================

CREATE TABLE networks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_id  bigint NOT NULL REFERENCES companies (id) ON DELETE CASCADE,
    name        text NOT NULL CHECK (btrim(name) <> ''),
    range       cidr NOT NULL,
    gateway     inet,
    vlan        integer CHECK (vlan BETWEEN 1 AND 4094),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),

    -- Two companies may use the same private range, but one company only once.
    UNIQUE (company_id, range),
    CHECK (gateway IS NULL OR gateway << range)
);

CREATE TABLE ip_addresses (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    network_id   bigint NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    device_id    bigint REFERENCES devices (id) ON DELETE SET NULL,
    address      inet NOT NULL CHECK (masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END),
    mac_address  macaddr,
    host_name    text CHECK (host_name = lower(host_name)),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),

    UNIQUE (network_id, address)
);

CREATE INDEX ip_addresses_device_id_idx ON ip_addresses (device_id) WHERE device_id IS NOT NULL;

-- Answers "which of our addresses are inside 10.4.0.0/16?" from the index.
CREATE INDEX ip_addresses_address_idx ON ip_addresses USING gist (address inet_ops);

-- A CHECK sees only its own row, so a trigger has to check that an address is
-- inside its network. It covers both sides: an address that is added or moved,
-- and a network whose range changes while it has addresses.
CREATE FUNCTION check_address_in_network()
RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    network_range cidr;
BEGIN
    SELECT range INTO network_range
    FROM networks
    WHERE id = NEW.network_id
    FOR KEY SHARE;

    IF NOT NEW.address << network_range THEN
        RAISE EXCEPTION 'address % is not inside its network %', host(NEW.address), network_range
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER ip_addresses_in_network
    BEFORE INSERT OR UPDATE OF address, network_id ON ip_addresses
    FOR EACH ROW EXECUTE FUNCTION check_address_in_network();

CREATE FUNCTION check_network_holds_addresses()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM ip_addresses WHERE network_id = NEW.id AND NOT address << NEW.range
    ) THEN
        RAISE EXCEPTION 'network % would no longer hold all of its addresses', NEW.range
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER networks_hold_addresses
    BEFORE UPDATE OF range ON networks
    FOR EACH ROW WHEN (OLD.range IS DISTINCT FROM NEW.range)
    EXECUTE FUNCTION check_network_holds_addresses();

CREATE TRIGGER networks_set_updated_at
    BEFORE UPDATE ON networks FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TRIGGER ip_addresses_set_updated_at
    BEFORE UPDATE ON ip_addresses FOR EACH ROW EXECUTE FUNCTION set_updated_at();

COMMENT ON TABLE networks IS 'Address ranges of a company.';
COMMENT ON COLUMN networks.range IS 'The network with its prefix length, host bits zero.';
COMMENT ON COLUMN networks.vlan IS 'IEEE 802.1Q identifier, if the network has one.';

COMMENT ON TABLE ip_addresses IS 'Addresses in use or reserved.';
COMMENT ON COLUMN ip_addresses.address IS 'A single host, inside the range of its network.';
COMMENT ON COLUMN ip_addresses.device_id IS 'NULL for an address that is only reserved.';
