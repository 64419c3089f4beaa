-- +migrate Up
CREATE TABLE b (i int);
-- +migrate Down
DROP TABLE b;
