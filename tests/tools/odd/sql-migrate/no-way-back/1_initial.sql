-- +migrate Up
CREATE TABLE a (i int);
