-- +goose Up
-- +goose StatementBegin
CREATE TABLE a (i int);
CREATE TABLE b (i int);
-- +goose StatementEnd
INSERT INTO a VALUES (1);
-- the end
