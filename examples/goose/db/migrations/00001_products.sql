-- +goose Up
CREATE TABLE products (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
INSERT INTO products (name) VALUES ('apple'), ('pear');

-- +goose Down
DROP TABLE products;
