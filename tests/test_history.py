"""Another tool's history: a first look with plain SELECTs computes the same digest as PostgreSQL does in a DO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from entrypoint.command import Command
from entrypoint.deadline import Deadline
from entrypoint.migration.ledger import history, runs
from entrypoint.migration.ledger.place import Place
from entrypoint.migration.ledger.rows import ask
from entrypoint.migration.ledger.tables import setup
from kit.asker import Asker

if TYPE_CHECKING:
    from kit.databases import Database

ALEMBIC = "CREATE TABLE alembic_version (version_num varchar(32)); INSERT INTO alembic_version VALUES ('a1')"
ODD_ROWS = """\
CREATE TABLE django_migrations (id serial, at timestamptz, took interval, rate float8, raw bytea, name text);
INSERT INTO django_migrations (at, took, rate, raw, name) VALUES
    ('2026-01-01 12:00+02', '1 day 02:03', 0.1, '\\xdead', E'two\\nlines'), (NULL, NULL, 'NaN', '', 'Größe "ß" \\ '),
    ('2026-07-01', '-1 year', 1e300, NULL, '')"""
PARTITIONED = """\
CREATE TABLE migrations (a int) PARTITION BY LIST (a); CREATE TABLE p PARTITION OF migrations DEFAULT;
INSERT INTO migrations VALUES (3)"""
# SQL that creates the history, the search_path, MIGRATION_COMMAND_STATE, and how many tables a first look reads; None
# means that it leaves the work to the DO.
HISTORIES: dict[str, tuple[str, str, tuple[str, ...], int | None]] = {
    "none": ("", "public", (), 0),
    "one row": (ALEMBIC, "public", (), 1),
    "empty": ("CREATE TABLE alembic_version (version_num text)", "public", (), 1),
    "odd rows": (ODD_ROWS, "public", (), 1),
    "several": (f"{ALEMBIC}; CREATE TABLE migrations (a int); CREATE TABLE pgmigrations (b int)", "public", (), 3),
    "capitals": ('CREATE TABLE "SequelizeMeta" (name text)', "public", (), 1),
    "in two schemas": (f"{ALEMBIC}; CREATE SCHEMA app; CREATE TABLE app.migrations (a int)", "app, public", (), 2),
    "off the path": (f"{ALEMBIC}; CREATE SCHEMA app; CREATE TABLE app.migrations (a int)", "public", (), 1),
    "in its own schema": ("CREATE SCHEMA drizzle; CREATE TABLE drizzle.__drizzle_migrations (a int)", "public", (), 1),
    "not in its own": ("CREATE TABLE __drizzle_migrations (a int)", "public", (), 0),
    "Rails": ("CREATE TABLE schema_migrations (a text); CREATE TABLE ar_internal_metadata (k text)", "public", (), 2),
    "ours": ("CREATE TABLE schema_migrations (migration_number int, filename text)", "public", (), 0),
    "named": (f"{ALEMBIC}; CREATE TABLE steps (a int); INSERT INTO steps VALUES (1), (2)", "public", ("steps",), 1),
    "named, with its schema": ("CREATE SCHEMA ops; CREATE TABLE ops.steps (a int)", "public", ("ops.steps",), 1),
    "named, and not there": (ALEMBIC, "public", ("steps", "ops.steps"), 0),
    "a view": ("CREATE VIEW migrations AS SELECT 1 AS a", "public", (), 0),
    "partitioned": (PARTITIONED, "public", (), 1),
    "an odd schema": ('CREATE SCHEMA "App"; CREATE TABLE "App".migrations (a int)', '"App", public', (), 1),
    "a path in capitals": (f"CREATE SCHEMA app; {ALEMBIC}", "APP, public", (), None),
    "large": (
        f"{ALEMBIC}; UPDATE pg_class SET relpages = 5000 WHERE oid = 'alembic_version'::regclass",
        "public",
        (),
        None,
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_a_plain_history_has_the_digest_of_the_others(database: Database, name: str) -> None:
    made, path, state, read = HISTORIES[name]
    command = Command("tool up", ("tool", "up"), ("*.py",), state, with_files=False)
    deadline = Deadline(10)
    with database.connect(options="-csearch_path=" + path.replace(" ", "\\ ")) as connection:
        asker = Asker(connection)
        place = Place(schema="public", schema_exists=True, ledger={}, lock={}, command=command, commands={})
        connection.execute(setup(place, None).encode())
        if made:
            connection.execute(made.encode())
        found, histories = runs.find_tables(asker, None, deadline, None, command)
        assert read == (None if histories is None else len(histories))
        if found is None or histories is None:
            return
        plain = runs.as_runs(ask(asker, None, deadline, runs.queries(found, histories)), histories)
        assert plain == history.as_runs(ask(asker, None, deadline, history.queries(found, command)))
        assert (plain.digest == runs.NOTHING) == (read == 0)
