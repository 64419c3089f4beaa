"""`-- entrypoint: timeout = …` and `lock-timeout = …`: a file's own limits, as PostgreSQL and the log see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scene import Scene, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

# Records the session's limits as a table with one row.
LIMITS = (
    "CREATE TABLE {0} AS SELECT current_setting('statement_timeout')::interval AS whole,"
    " current_setting('lock_timeout') AS lock;"
)


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def limits(scene: Scene, table: str) -> tuple[float, str]:
    """Return what `LIMITS` recorded: the statement timeout in seconds, and the lock timeout."""
    seconds, lock = scene.database.one(f"SELECT extract(epoch FROM whole)::float, lock FROM {table}")
    return float(seconds), str(lock)


@pytest.mark.parametrize("how", ["", "-- entrypoint: no-transaction\n"], ids=["in a transaction", "outside"])
def test_each_file_has_its_own_limits(scene: Scene, how: str) -> None:
    scene.write(
        {
            "001_a.sql": how + LIMITS.format("a"),
            "002_b.sql": f"-- entrypoint: timeout = 2h\n-- entrypoint: lock-timeout = 1s\n{how}{LIMITS.format('b')}",
            "003_c.sql": f"-- entrypoint: timeout = 45s\n{how}{LIMITS.format('c')}",
            "004_d.sql": f"-- entrypoint: lock-timeout = 3min\n{how}{LIMITS.format('d')}",
        }
    )
    run = scene.migrated(MIGRATION_TIMEOUT_MS=300_000, MIGRATION_DDL_LOCK_TIMEOUT_MS=5_000)
    found = {table: limits(scene, table) for table in "abcd"}
    assert {table: lock for table, (_, lock) in found.items()} == {"a": "5s", "b": "1s", "c": "5s", "d": "3min"}
    # What is left of each file's time, which has just started.
    assert 200 < found["a"][0] <= 300
    assert 7000 < found["b"][0] <= 7200
    assert 20 < found["c"][0] <= 45
    assert 200 < found["d"][0] <= 300
    (told,) = run.logs("migration.declared_timeout")
    assert told["timeout_ms"] == (300 + 7200 + 45) * 1000
    assert "002_b.sql may take 2h, 003_c.sql may take 45s, and the others together" in told["message"]
    assert told["message"].endswith("at most 7545s in total")


def test_a_file_may_take_longer_than_all_the_others_together(scene: Scene) -> None:
    """The other files keep their own time."""
    scene.write(
        {
            "001_long.sql": "-- entrypoint: timeout = 1min\nSELECT pg_sleep(3.5);",
            "002_next.sql": LIMITS.format("next"),
        }
    )
    run = scene.migrated(MIGRATION_TIMEOUT_MS=3_000)
    assert run.logs("migration.applied")[0]["duration_ms"] > 3_000
    assert 0 < limits(scene, "next")[0] <= 3


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE half_done (); SELECT pg_sleep(60);",
        "-- entrypoint: no-transaction\nSELECT pg_sleep(0.6); SELECT pg_sleep(0.6);",
        "-- entrypoint: no-transaction\nCREATE INDEX CONCURRENTLY i ON nothing (pg_sleep_text());",
    ],
    ids=["a transaction", "outside, all statements together", "outside, concurrently"],
)
def test_when_its_time_is_over(scene: Scene, text: str) -> None:
    scene.database.execute(
        "CREATE TABLE nothing AS SELECT 1 AS a; CREATE FUNCTION pg_sleep_text() RETURNS text IMMUTABLE"
        " LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN ''; END $$"
    )
    scene.write({"001_long.sql": f"-- entrypoint: timeout = 1s\n{text}", "002_next.sql": "CREATE TABLE next ();"})
    run = scene.migrate()
    assert run.code == 70, run.report()
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert error["file"] == "001_long.sql"
    assert error["message"].startswith("001_long.sql took longer than it declares (-- entrypoint: timeout = 1s)")
    assert "Raise the time in the line `-- entrypoint: timeout = 1s`" in error["remedy"]
    assert not scene.database.exists("half_done")
    assert not scene.database.exists("next")
    assert "failed" not in {status for _, status in scene.ledger()}


def test_when_the_time_of_the_others_is_over_the_remedy_names_both_ways(scene: Scene) -> None:
    scene.write({"001_a.sql": "-- entrypoint: timeout = 1min\nSELECT 1", "002_long.sql": "SELECT pg_sleep(60)"})
    run = scene.migrate(MIGRATION_TIMEOUT_MS=1_000)
    assert run.code == 70, run.report()
    error = only_error(run)
    assert error["message"].startswith("The migrations took longer than 1000ms; 002_long.sql was not finished")
    assert "MIGRATION_TIMEOUT_MS" in error["remedy"]
    assert "-- entrypoint: timeout = 30min" in error["remedy"]


@pytest.mark.thorough
def test_a_lock_that_is_not_to_be_had(scene: Scene) -> None:
    """Each attempt is as short as the file says, and all attempts together get the file's timeout."""
    scene.database.execute("CREATE TABLE busy ()")
    declared = "-- entrypoint: lock-timeout = 100ms\n-- entrypoint: timeout = 2s\n"
    scene.write({"001_alter.sql": f"{declared}ALTER TABLE busy ADD a text;"})
    with scene.database.connect() as other, other.transaction():
        other.execute("SELECT * FROM busy")
        run = scene.migrate(MIGRATION_DDL_LOCK_TIMEOUT_MS=60_000)
        assert run.code == 70, run.report()
        assert only_error(run)["event"] == "migration.timeout"
        assert "-- entrypoint: timeout = 2s" in only_error(run)["remedy"]
        assert run.logs("migration.retry")
        assert run.logs("migration.blocked"), "the watcher looks before such a short time is over"
    scene.migrated()
    assert scene.ledger() == [(1, "completed")]


def test_a_bad_directive_is_found_before_anything_runs(scene: Scene) -> None:
    scene.write(
        {
            "001_good.sql": "CREATE TABLE good ();",
            "002_bad.sql": "-- entrypoint: no-transction\nSELECT 1",
            "003_bad.sql": "-- why\n-- entrypoint: timeout = 30\nSELECT 1;\n-- entrypoint: timeout = 5s",
        }
    )
    faults = []
    for command in (("migrate",), ("migrate", "--dry-run")):
        run = scene.start(*command)
        assert run.wait() == 65, run.report()
        faults.append(only_error(run)["faults"])
    assert faults[0] == faults[1]
    checked = scene.start("check")
    assert checked.wait() == 65
    for fault in faults[0]:
        assert fault.split(": ", 1)[1] in checked.stdout
    assert [fault.split(": ")[0] for fault in faults[0]] == ["002_bad.sql:1", "003_bad.sql:2", "003_bad.sql:4"]
    assert "did you mean no-transaction?" in faults[0][0]
    assert "write 30ms, 30s, 30min or 30h" in faults[0][1]
    assert "directives only count above the first statement" in faults[0][2]
    assert not scene.database.exists("good")


def test_check_and_dry_run_show_it(scene: Scene) -> None:
    scene.write({"001_a.sql": "-- entrypoint: timeout = 90min\n-- entrypoint: lock-timeout = 200ms\nSELECT 1"})
    assert "001_a.sql: note: timeout 90min, lock-timeout 200ms" in scene.start("check").ok().stdout
    shown = scene.start("migrate", "--dry-run").ok().stdout
    assert "001_a.sql  (1 statement, one transaction, timeout 90min, lock-timeout 200ms)" in shown
