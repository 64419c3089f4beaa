-- +goose Up
CREATE TABLE b (i int);
