-- +goose Up
ALTER TABLE products ADD COLUMN price numeric(10, 2) NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE products DROP COLUMN price;
