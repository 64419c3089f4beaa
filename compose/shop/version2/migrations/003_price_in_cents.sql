-- The price of an order becomes a whole number of cents. This is the first step, "expand": it adds the new column next
-- to the old one, and a trigger that fills in whichever of the two a replica leaves out. So version 1 can still write
-- `price`, version 2 writes `price_cents`, and both read `price`. 004 fills in the orders from before the trigger, and
-- version 3 drops the old column.
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
