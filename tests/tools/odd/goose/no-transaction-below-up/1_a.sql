-- +goose Up
-- +goose NO TRANSACTION
-- why
CREATE TABLE a (i int);

CREATE INDEX CONCURRENTLY ai ON a (i);
