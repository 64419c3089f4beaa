-- The last step, "contract". Versions 1 and 2 read `price`, so this runs when their last replica is gone. From then on,
-- an image without this file no longer starts (`floor`).
-- entrypoint: phase = after
-- entrypoint: requires = 6
-- entrypoint: floor = 007_drop_price.sql
DROP TRIGGER orders_fill_both_prices ON orders;
-- squawk-ignore ban-drop-function
DROP FUNCTION orders_fill_both_prices();
ALTER TABLE orders
    -- This does not read the table, because the constraint is valid. The linter cannot know that.
    -- squawk-ignore adding-not-nullable-field
    ALTER COLUMN price_cents SET NOT NULL,
    DROP CONSTRAINT orders_price_cents_is_there,
    DROP COLUMN price;
