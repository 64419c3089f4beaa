-- Version 3 reads `price_cents` only. `requires` stops it here, before a replica is replaced, if 004 is not done.
-- NOT VALID: from now on no order is without it. Those that are there are looked at by 006, without a lock in the way.
-- entrypoint: requires = 4
ALTER TABLE orders ADD CONSTRAINT orders_price_cents_is_there CHECK (price_cents IS NOT NULL) NOT VALID;
