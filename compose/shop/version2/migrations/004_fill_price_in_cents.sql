-- The orders that were there before the trigger. In batches that commit, outside a transaction: no order is locked for
-- longer than its batch takes. It can be started again, as it looks only for what is still missing.
-- entrypoint: no-transaction
DO $$
DECLARE
    batch_size CONSTANT integer := 1000;
    last_id bigint := 0;
    next_id bigint;
BEGIN
    LOOP
        SELECT max(id) INTO next_id
        FROM (
            SELECT id FROM orders WHERE id > last_id AND price_cents IS NULL ORDER BY id LIMIT batch_size
        ) AS batch;
        EXIT WHEN next_id IS NULL;

        UPDATE orders SET price_cents = price * 100
        WHERE id > last_id AND id <= next_id AND price_cents IS NULL;
        COMMIT;
        last_id := next_id;
    END LOOP;
END
$$;
