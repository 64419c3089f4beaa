-- +migrate Up
CREATE TABLE c (i int);
-- +migrate Down
DROP TABLE c;
