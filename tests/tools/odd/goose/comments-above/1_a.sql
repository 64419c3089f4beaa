-- goose postgres://me:{password}@host/x
-- what; it is

-- +goose Up
CREATE TABLE a (i int);
