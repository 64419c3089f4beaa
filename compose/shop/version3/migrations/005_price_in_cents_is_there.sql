-- Version 3 only reads `price_cents`. If 004 has not been applied, `requires` stops the rollout here, before a replica
-- is replaced. NOT VALID: applies to new orders from now on. 006 checks the existing ones, without a lock that blocks
-- others.
-- entrypoint: requires = 4
ALTER TABLE orders ADD CONSTRAINT orders_price_cents_is_there CHECK (price_cents IS NOT NULL) NOT VALID;
