-- +goose Up
CREATE TABLE a (i int);
