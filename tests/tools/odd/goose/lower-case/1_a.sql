-- +goose up
-- +goose statementbegin
CREATE TABLE a (i int);
-- +goose statementend
-- +goose down
DROP TABLE a;
