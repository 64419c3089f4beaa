"""Numbers that do not fit into an integer: timestamps, of up to 18 digits, and the ledger's column that holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scene import Scene, errors, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

SHORT = {"001_first.sql": "CREATE TABLE first ();", "2147483647_last_short.sql": "CREATE TABLE last_short ();"}
LONG = {
    "20261127101500_stamped.sql": "CREATE TABLE stamped ();",
    "999999999999999999_highest.sql": "CREATE TABLE highest ();",
}
HIGHEST = 999999999999999999
TYPE = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s"


def type_of(scene: Scene, relation: str = "schema_migrations", column: str = "migration_number") -> str:
    return str(scene.database.one(TYPE, [relation, column]))


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def test_the_column_is_widened_when_the_first_long_number_is_written(
    any_database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """Before that it stays what it was, also while a long number waits behind a file that fails."""
    scene = Scene(any_database, migrations_dir, run_entrypoint)
    scene.write({**SHORT, **LONG, "002_fails.sql": "SELECT 1/0"})
    assert scene.run().outcome == "failed"
    assert type_of(scene) == type_of(scene, "migration_status", "latest_migration") == "integer"
    scene.write({"002_fails.sql": "SELECT 1"})
    run = scene.start()
    assert told(run)[:2] == ("migrated", str(HIGHEST))
    assert [record["schema"] for record in run.logs() if record.get("event") == "ledger.widened"] == ["public"]
    assert type_of(scene) == type_of(scene, "migration_status", "latest_migration") == "bigint"
    numbers = [1, 2, 2147483647, 20261127101500, HIGHEST]
    assert scene.ledger() == [(number, "completed") for number in numbers]
    assert scene.database.one("SELECT total_migrations, latest_migration FROM migration_status") == (5, HIGHEST)
    again = scene.start()
    assert told(again)[:2] == ("up_to_date", str(HIGHEST))
    assert not errors(again)
