"""Whose table it is, whether it needs an upgrade, and the lock's key, from values alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from entrypoint.database import session_state
from entrypoint.database.quoting import identifier, literal
from entrypoint.migration.ledger import tables, writing
from entrypoint.migration.ledger.keys import LOCK_CLASS, guard_key, lock_key
from entrypoint.migration.ledger.place import Place
from entrypoint.migration.ledger.reading import LockRow
from entrypoint.migration.ledger.search import owner_of
from entrypoint.migration.script.files import MigrationFile

if TYPE_CHECKING:
    from collections.abc import Collection

LEDGER = {
    "id": "integer",
    "migration_number": "integer",
    "filename": "text",
    "applied_at": "timestamp with time zone",
    "application_version": "text",
    "execution_time_ms": "integer",
    "status": "text",
    "error_message": "text",
    "checksum": "character varying",
}
LOCK = {
    "id": "integer",
    "locked_at": "timestamp with time zone",
    "locked_by": "text",
    "process_id": "integer",
    "token": "text",
    "progress_migration": "text",
    "progress_statement": "integer",
    "progress_statements": "integer",
    "progress_at": "timestamp with time zone",
    "progress_detail": "jsonb",
    "guard_pid": "integer",
    "guard_token": "text",
    "until": "timestamp with time zone",
}


def place(columns: dict[str, str] | None = None, lock: dict[str, str] | None = None, schema: str = "public") -> Place:
    values: dict[str, object] = dict.fromkeys(Place._fields)
    values |= {"schema": schema, "schema_exists": True, "backend_pid": 1, "standby": False, "read_only": False}
    values |= {"ledger": LEDGER if columns is None else columns, "lock": LOCK if lock is None else lock}
    return Place(**values)  # type: ignore[arg-type]


def without(columns: dict[str, str], name: str) -> dict[str, str]:
    return {column: kind for column, kind in columns.items() if column != name}


OUTDATED = {
    "ours": (place(), False),
    "nothing": (place({}, {}), False),
    "a lock and no ledger": (place({}), False),
    "a ledger and no lock": (place(None, {}), True),
    "times without zone": (place({**LEDGER, "applied_at": "timestamp without time zone"}), True),
    "lock times without zone": (place(None, {**LOCK, "locked_at": "timestamp without time zone"}), True),
    "a narrow version": (place({**LEDGER, "application_version": "character varying"}), True),
    "no version": (place(without(LEDGER, "application_version")), True),
    "narrow names do no harm": (place({**LEDGER, "filename": "character varying"}), False),
    "more columns do no harm": (place({**LEDGER, "note": "text"}, {**LOCK, "note": "text"}), False),
    **{f"no {name}": (place(without(LEDGER, name)), True) for name in ("status", "checksum", "error_message")},
    **{f"no {name} in the lock": (place(None, without(LOCK, name)), True) for name in list(LOCK)[4:]},
}


@pytest.mark.parametrize("case", OUTDATED)
def test_outdated(case: str) -> None:
    where, expected = OUTDATED[case]
    assert where.outdated is expected


OWNERS = {
    ("id", "migration_number", "filename", "applied_at"): None,
    tuple(LEDGER): None,
    ("migration_number", "filename"): None,
    ("version",): "Rails or dbmate",
    ("version", "dirty"): "golang-migrate",
    ("version", "inserted_at"): "Ecto",
    ("filename",): "Sequel",
    ("version", "applied_at"): "another tool",
    ("migration_number",): "another tool",
}


@pytest.mark.parametrize("columns", OWNERS)
def test_owner_of(columns: tuple[str, ...]) -> None:
    assert owner_of(frozenset(columns)) == OWNERS[columns]


def test_the_lock_key_never_changes() -> None:
    """Two releases must exclude each other, so these numbers never change."""
    assert LOCK_CLASS == 1885824368
    assert lock_key("public") == 1001664029
    assert lock_key("ops") == 1526271103
    assert lock_key("Größe") == -1804693483
    assert guard_key(place(schema="ops")) == "1885824368, 1526271103"


def test_the_lock_key_fits_a_signed_integer() -> None:
    keys = {lock_key(f"schema_{number}") for number in range(1000)}
    assert len(keys) == 1000
    assert min(keys) < 0 < max(keys)
    assert -(2**31) <= min(keys) <= max(keys) < 2**31


def test_quoting() -> None:
    assert identifier('a"b') == '"a""b"'
    assert identifier("a\0b") == '"ab"'
    assert literal(None) == "NULL"
    assert literal("it's") == "'it''s'"
    assert literal("back\\slash's").strip() == "E'back\\\\slash''s'"
    assert literal("a\0b") == "'ab'"
    assert place(schema='o"dd').table("migration_lock") == '"o""dd".migration_lock'


def row(**fields: object) -> LockRow:
    values: dict[str, object] = dict.fromkeys(LockRow._fields)
    return LockRow(**{**values, "held": True, **fields})  # type: ignore[arg-type]


def test_who_is_of_the_earlier_system() -> None:
    assert row().legacy
    assert not row(token="t").legacy
    assert not row(held=False).legacy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CREATE TABLE a ()", False),
        ("-- migrations of the schema", False),
        ("UPDATE Migration_Lock SET locked_at = NULL", True),
        ("SELECT acquire_migration_lock('a', 1)", True),
        ("SELECT release_stale_migration_locks()", True),
        ("SELECT is_migration_locked()", True),
        ("DROP VIEW migration_status", True),
        ("INSERT INTO schema_migrations VALUES (1)", True),
    ],
)
def test_mentions(text: str, expected: bool) -> None:  # noqa: FBT001
    assert tables.mentions(text) is expected


@pytest.mark.parametrize("schema", ["public", 'Odd "one"', "it's", "{schema_literal}", "{lock_key}", "{schema}"])
def test_the_ddl_names_the_schema_and_nothing_is_left_open(schema: str) -> None:
    where = place(schema=schema)
    ddl = tables.ddl(where)
    assert f"CREATE TABLE IF NOT EXISTS {identifier(schema)}.schema_migrations" in ddl
    assert f"pg_try_advisory_xact_lock_shared({guard_key(where)})" in ddl


@pytest.mark.parametrize("schema", ["public", "{unless_there}", "CREATE TABLE IF NOT EXISTS"])
def test_a_new_ledger_is_made_and_not_upgraded(schema: str) -> None:
    ddl = tables.ddl(place({}, {}, schema))
    assert f"CREATE TABLE {identifier(schema)}.schema_migrations" in ddl
    assert f"CREATE TABLE {identifier(schema)}.migration_lock" in ddl
    assert "CREATE TABLE IF NOT EXISTS " not in ddl
    assert "$upgrade$" not in ddl


def test_a_row_is_never_written_over_one_that_is_completed() -> None:
    file = MigrationFile(7, "007_x.sql", "", "sum", "raw")
    sql = writing.insert(place(), file, "it's", status="failed", message="no", milliseconds=0)
    assert sql.endswith("WHERE l.status IS DISTINCT FROM 'completed';")
    assert "'it''s'" in sql
    assert "(0)::integer" in sql


def test_a_poolers_prepared_statements_stay() -> None:
    assert "DEALLOCATE" in session_state.restore(pooled=False)
    assert "DEALLOCATE" not in session_state.restore(pooled=True)


@pytest.mark.parametrize(
    ("numbers", "condition"),
    [
        ({3}, "migration_number BETWEEN 3 AND 3"),
        ({3, 1, 2}, "migration_number BETWEEN 1 AND 3"),
        (
            {1, 2, 4, 5, 9},
            " OR ".join(f"migration_number BETWEEN {pair}" for pair in ("1 AND 2", "4 AND 5", "9 AND 9")),
        ),
        (range(0, 44, 2), f"migration_number IN ({', '.join(map(str, range(0, 44, 2)))})"),
    ],
)
def test_numbers_without_gaps_are_ranges(numbers: Collection[int], condition: str) -> None:
    assert writing.among(numbers) == condition
