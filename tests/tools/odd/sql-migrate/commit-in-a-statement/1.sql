-- +migrate Up notransaction
-- +migrate StatementBegin
BEGIN;
CREATE TABLE a (i int);
COMMIT;
-- +migrate StatementEnd

-- +migrate Down notransaction
DROP TABLE a;
