-- +goose Up
-- +goose StatementBegin
CREATE TABLE a (
    i int
)
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
    BEGIN
        EXECUTE format('COMMENT ON TABLE a IS %L;', 'it''s; a');
    END $$ -- the end
-- +goose StatementEnd
-- +goose Down
-- +goose StatementBegin
DROP TABLE a
-- +goose StatementEnd
