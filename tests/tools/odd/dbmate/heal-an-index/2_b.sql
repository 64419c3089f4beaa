-- migrate:up transaction:false
DO $heal$
BEGIN
  IF EXISTS (SELECT FROM pg_class WHERE relname = 'ai') THEN
    EXECUTE 'DROP INDEX ai';
  END IF;
END
$heal$;
-- migrate:down
