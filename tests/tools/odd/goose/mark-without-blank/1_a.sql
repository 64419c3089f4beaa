--+goose Up
CREATE TABLE a (i int);
--+goose Down
DROP TABLE a;
