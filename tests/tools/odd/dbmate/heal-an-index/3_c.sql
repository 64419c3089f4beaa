-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY IF NOT EXISTS ai ON a (i);
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY ai;
