"""Another tool's marks, and where they are none."""

from __future__ import annotations

import pytest

from entrypoint.migration.script.foreign import mark_in

MARKS = {
    "-- +goose Up\nSELECT 1;\n-- +goose Down\nDROP TABLE a;\n": (1, "goose"),
    "SELECT 1\n-- +goose Down\n;": (2, "goose"),
    "--+goose StatementBegin\nSELECT 1;": (1, "goose"),
    "/* c */\n-- migrate:up\nSELECT 1;": (2, "dbmate"),
    "CREATE TABLE a (\n-- migrate:down transaction:false\ni int);": (2, "dbmate"),
    "-- +migrate Up notransaction": (1, "sql-migrate"),
    "--liquibase formatted sql\n--changeset a:1\nSELECT 1;\n--rollback DROP TABLE a;": (1, "Liquibase"),
    "-- Liquibase  formatted SQL": (1, "Liquibase"),
    "SELECT '\n-- +goose Up\n';\n-- +goose Down\n": (4, "goose"),
    "SELECT '\n-- +goose Up\n';": None,
    'SELECT 1 AS "\n-- +goose Up\n";': None,
    "DO $$ BEGIN\n-- +goose Up\nEND $$;": None,
    "SELECT E'\\'\n-- migrate:up\n';": None,
    "/*\n-- migrate:up\n*/ SELECT 1;": None,
    "SELECT 1; -- +goose Up": None,
    " -- +goose Up\nSELECT 1": None,
    "--rollback DROP TABLE a;": None,
    "-- migrate:upwards": None,
    "-- written for goose": None,
    "SELECT 'open\n-- +goose Up": None,
}


@pytest.mark.case("A4")
@pytest.mark.parametrize("text", MARKS)
def test_marks(text: str) -> None:
    fault = mark_in(text)
    expected = MARKS[text]
    if expected is None:
        assert fault is None
    else:
        assert fault is not None
        assert (fault.line, f"written for {expected[1]}," in fault.message) == (expected[0], True)
