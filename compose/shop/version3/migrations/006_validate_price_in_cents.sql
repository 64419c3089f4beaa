-- Reads all orders, while others read and write them. This is a separate file because 005 holds a lock that blocks
-- others.
ALTER TABLE orders VALIDATE CONSTRAINT orders_price_cents_is_there;
