"""A full disk or too little memory is not the file's failure: nothing is recorded, and the next start retries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from conftest import missing, new_database
from entrypoint.database import answers
from entrypoint.errors.migration import MigrationPreventedError
from entrypoint.settings import read_settings
from entrypoint.startup import bring_up_to_date
from faults.machinery import Disk, UnavailableError
from kit.processes import peak_memory
from scene import Gate, Scene, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from kit.databases import Database
    from kit.processes import Run

LEDGER = "SELECT status FROM schema_migrations ORDER BY migration_number"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.mark.thorough
@pytest.mark.case("B8")
@pytest.mark.parametrize("directive", ["", "-- entrypoint: no-transaction\n"])
def test_a_full_disk_is_not_the_files_failure(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run], directive: str
) -> None:
    server = fresh_server()
    try:
        disk = Disk(server)
    except UnavailableError as error:
        missing(str(error))
    try:
        with new_database(server) as database:
            scene = Scene(database, migrations_dir, run_entrypoint)
            scene.write(
                {
                    "001_a.sql": f"CREATE TABLE a (i integer, t text) TABLESPACE {Disk.TABLESPACE};",
                    "002_b.sql": f"{directive}INSERT INTO a SELECT i, repeat('x', 500) FROM generate_series(1, 900) i;",
                }
            )
            scene.start("migrate", "--to", "1").ok()
            disk.fill()
            run = scene.migrate()
            assert run.code == 70, run.report()
            told = only_error(run)
            assert told["event"] == "migration.prevented"
            assert told["sqlstate"] == "53100"
            assert "the server's disk is full" in told["message"]
            assert "Free space" in told["remedy"]
            assert "002_b.sql:" in told["report"]
            assert not database.one("SELECT count(*) FROM schema_migrations WHERE status = 'failed'")
            disk.free()
            scene.migrated()
            assert database.one("SELECT count(*) FROM a") == 900
    finally:
        disk.close()


@pytest.mark.sampled(7)
@pytest.mark.case("B8")
@pytest.mark.parametrize(
    ("sqlstate", "environment"),
    [
        ("53000", True),
        ("53200", True),
        ("53400", True),
        ("58030", True),
        ("XX001", True),
        ("XX002", True),
        ("54000", False),
        ("58P01", False),
        ("XX000", False),
        ("P0001", False),
    ],
)
def test_what_is_the_environment_is_not_recorded(scene: Scene, sqlstate: str, *, environment: bool) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'oh' USING ERRCODE = '{sqlstate}'; END $$"
    scene.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": raising})
    run = scene.migrate()
    assert run.code == 70, run.report()
    assert only_error(run)["event"] == ("migration.prevented" if environment else "migration.failed")
    again = scene.migrate()
    assert only_error(again)["event"] == ("migration.prevented" if environment else "migration.held_back")
    statuses = ["completed"] if environment else ["completed", "failed"]
    assert [status for (status,) in scene.database.rows(LEDGER)] == statuses


@pytest.mark.case("B20")
def test_what_libpq_cannot_take_is_ours(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    field = answers._field

    def of_libpq(result: Any, code: int) -> str | None:
        if field(result, ord("C")) != "22012":
            return field(result, code)
        return "out of memory for query result" if code == ord("M") else None

    monkeypatch.setattr(answers, "_field", of_libpq)
    scene.write({"001_a.sql": "SELECT 1/0"})
    settings = read_settings({"DATABASE_URL": scene.database.url, "MIGRATIONS_DIR": str(scene.migrations)})
    with pytest.raises(MigrationPreventedError, match="out of memory for query result") as caught:
        bring_up_to_date(settings)
    assert "in this program" in caught.value.message
    assert "server's" not in caught.value.remedy
    assert scene.database.one("SELECT count(*) FROM schema_migrations") == 0


@pytest.mark.cold
@pytest.mark.case("B19")
@pytest.mark.parametrize("directive", ["", "-- entrypoint: no-transaction\n"])
def test_rows_that_nobody_wants_are_not_kept(scene: Scene, directive: str) -> None:
    """Each of two results has 100 MB of rows; the statements after them still count."""
    rows = "SELECT i, repeat('x', 1000) FROM generate_series(1, 100000) i;\n"
    with Gate(scene.database) as gate:
        scene.write({"001_a.sql": f"{directive}CREATE TABLE a ();\n{rows}VALUES (1), (2);\n{rows}{Gate.PASS}"})
        run = scene.start("migrate")
        gate.arrival()
        most = peak_memory(run.pid)
        gate.open()
        run.ok()
    assert most < 100_000_000
    assert scene.lock_is_free()
