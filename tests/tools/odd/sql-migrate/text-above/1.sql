-- squawk-ignore-file
/* what
   it is */
-- +migrate Up
CREATE TABLE a (i int);
-- +migrate Down
DROP TABLE a;
