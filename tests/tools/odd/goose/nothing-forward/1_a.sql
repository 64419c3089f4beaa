-- +goose Up

-- +goose Down
DROP TABLE IF EXISTS a;
