-- Prices of orders become whole cents. This is the first step, "expand": the new column stands beside the old one, and
-- a trigger fills whichever of the two a replica leaves out. So version 1 goes on writing `price`, version 2 writes
-- `price_cents`, and both read `price`. The orders from before the trigger are filled by 004, and version 3 takes the
-- old column away.
ALTER TABLE orders ADD COLUMN price_cents bigint;

CREATE FUNCTION orders_fill_both_prices() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF NEW.price_cents IS NULL THEN
        NEW.price_cents := NEW.price * 100;
    ELSIF NEW.price IS NULL THEN
        NEW.price := NEW.price_cents / 100.0;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER orders_fill_both_prices
    BEFORE INSERT ON orders
    FOR EACH ROW EXECUTE FUNCTION orders_fill_both_prices();
