-- +goose Up
-- +goose StatementBegin
DO $$ BEGIN
  PERFORM 1; -- + goose
  CREATE TABLE b (x text);
END $$;
-- +goose StatementEnd
