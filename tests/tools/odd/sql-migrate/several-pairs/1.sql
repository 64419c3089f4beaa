-- +migrate Up
CREATE TABLE a (i int);

-- +migrate Up notransaction
SET lock_timeout = '2s';
CREATE INDEX CONCURRENTLY ai ON a (i);

-- +migrate Down notransaction
DROP INDEX CONCURRENTLY IF EXISTS ai;

-- +migrate Down
DROP TABLE a;
