-- Fills in the orders from before the trigger. No replica waits for this: `entrypoint migrate --phase after` runs it
-- after the rollout, while the replicas serve. Each batch commits, so no order is locked for longer than one batch
-- takes.
-- entrypoint: phase = after
-- entrypoint: batch = orders(id) by 1000
UPDATE orders SET price_cents = price * 100
WHERE id BETWEEN :from AND :to AND price_cents IS NULL;
