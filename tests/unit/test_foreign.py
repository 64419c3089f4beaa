"""Another tool's marks, and text that only looks like them."""

from __future__ import annotations

import pytest

from entrypoint.migration.script.foreign import import_command, mark_in

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
    "CREATE TABLE a ();\n---- create above / drop below ----\nDROP TABLE a;": (2, "tern"),
    "---- tern: disable-tx ----\nSELECT 1;": (1, "tern"),
    "-- Up Migration\nCREATE TABLE a ();\n-- Down Migration\nDROP TABLE a;": (1, "node-pg-migrate"),
    "CREATE TABLE a ();\n  --- down  migration ---\r\nDROP TABLE a;": (2, "node-pg-migrate"),
    "-- rambler up\nCREATE TABLE a ();\n-- rambler down\nDROP TABLE a;": (1, "rambler"),
    "-- // First migration\nCREATE TABLE a ();\n-- //@UNDO\nDROP TABLE a;": (3, "MyBatis Migrations"),
    "CREATE TABLE a ();\n--//@UNDO\nDROP TABLE a;": (2, "MyBatis Migrations"),
    "-- !Ups\nCREATE TABLE a ();\n-- !Downs\nDROP TABLE a;": (1, "Play"),
    "CREATE TABLE a ();\n-- --- !Downs\nDROP TABLE a;": (2, "Play"),
    "-- Migration: a\n-- ====  UP  ====\nBEGIN;\nCOMMIT;\n-- ==== DOWN ====\nBEGIN;\nCOMMIT;": (2, "shmig"),
    "-- +micrate Up\nCREATE TABLE a ();\n-- +micrate Down\nDROP TABLE a;": (1, "micrate"),
    "-- 1 up\nCREATE TABLE a ();\n-- 1 down\nDROP TABLE a;": (1, "Mojo::Pg::Migrations"),
    "-- 2 up (comment)\nCREATE TABLE a ();": (1, "Mojo::Pg::Migrations"),
    "-- Up migration for the customers": None,
    "-- Down migration: see rollback/001_a.sql": None,
    "-- the up migration": None,
    "-- 3 up to 5 rows": None,
    "-- ==== upper half ====": None,
    "-- // a note": None,
    "-- scrambler up": None,
    "SELECT '\n---- create above / drop below ----\n';": None,
    "DO $$ BEGIN\n-- //@UNDO\nEND $$;": None,
    "SELECT 1; -- Down Migration": None,
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
        assert (fault.line, f"written for {expected[1]}." in fault.message) == (expected[0], True)


@pytest.mark.parametrize("text", [text for text, expected in MARKS.items() if expected])
def test_the_one_line_that_helps_where_there_is_one(text: str) -> None:
    fault, expected = mark_in(text), MARKS[text]
    assert fault is not None
    assert expected is not None
    importing = f"entrypoint import --from {expected[1]} DIR. Or keep only"
    assert (importing in fault.message) == (expected[1] in ("goose", "dbmate", "sql-migrate"))
    assert ("import --from" in fault.message) == (expected[1] in ("goose", "dbmate", "sql-migrate"))


def test_commands_for_tools_that_are_known_by_their_names() -> None:
    assert import_command("Flyway") == "entrypoint import --from flyway DIR"
    assert import_command("golang-migrate or sqlx") == "entrypoint import --from golang-migrate DIR (or sqlx)"
    assert not import_command("tern")
