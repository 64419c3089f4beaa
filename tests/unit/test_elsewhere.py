"""Which ledger belongs to the same application, and what in a file may be the name of a schema."""

from __future__ import annotations

import time

import pytest

from entrypoint.migration.ledger.elsewhere import mentioned, same_application
from entrypoint.migration.script.files import MigrationFile


def file(number: int, name: str, checksum: str) -> MigrationFile:
    return MigrationFile(number, name, name, checksum, f"raw {checksum}")


FILES = (file(1, "001_init.sql", "a"), file(2, "002_more.sql", "b"))


@pytest.mark.parametrize(
    ("rows", "same"),
    [
        ([], False),
        ([("1", "001_init.sql", "a")], True),
        ([("1", "001_init.sql", "raw a")], True),
        ([("1", "001_init.sql", "z")], False),
        ([("1", "001_init.sql", None)], False),
        ([("1", "001_init.sql", "z"), ("2", "002_more.sql", "b")], True),
        ([("1", "001_init.sql", "a"), ("2", "002_others.sql", "b")], False),
        ([("1", "001_init.sql", "a"), ("3", "003_newer.sql", "c")], True),
        ([("3", "003_newer.sql", "a")], False),
    ],
)
def test_the_same_application(rows: list[tuple[str | None, ...]], *, same: bool) -> None:
    assert same_application(FILES, rows) is same


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("CREATE TABLE app.plan (n int)", {"app"}),
        ("CREATE TABLE App.plan (n int)", {"app"}),
        ('SELECT "My ""App""".f(), a.b.c', {'My "App"', "a", "b"}),
        ("CREATE SCHEMA IF NOT EXISTS app; DROP SCHEMA other", {"app", "other"}),
        ('SET search_path = app, "Other", public; SELECT x', {"app", "Other", "public"}),
        ("SELECT set_config('search_path', 'app', false)", {"app", "false"}),
        ("DO $$ BEGIN PERFORM 'app.plan'::regclass; END $$", {"app"}),
        ("-- app.plan\n/* other.plan */ SELECT 1.5, 'test'", set()),
        ("SELECT 'Mr. Smith', 3.", set()),
    ],
)
def test_what_may_be_a_schema(text: str, names: set[str]) -> None:
    assert mentioned([text]) == names


@pytest.mark.parametrize("text", ["a" * 500_000, "a." * 250_000, '"' * 500_001, '""a' * 150_000, "- /" * 150_000])
def test_its_time_is_linear(text: str) -> None:
    began = time.process_time()
    mentioned([text])
    assert time.process_time() - began < 5
