"""MIGRATION_OUT_OF_ORDER=refuse: a pending migration below the newest applied one ends a start before it runs any."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from kit.migrations import write_migrations
from scene import Gate, Scene, only_error, told, warnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

APPLIED = {"001_a.sql": "CREATE TABLE a ()", "004_d.sql": "CREATE TABLE d ()"}
LATE = {"002_b.sql": "CREATE TABLE b ()", "003_c.sql": "CREATE TABLE c ()", "005_e.sql": "CREATE TABLE e ()"}
REFUSE = {"MIGRATION_OUT_OF_ORDER": "refuse"}
FIRST = "002_b.sql is not applied, but 004_d.sql, which comes after it, is"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene in which two files come late."""
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write(APPLIED)
    scene.migrated()
    scene.write(LATE)
    return scene


@pytest.mark.parametrize("command", [(), ("migrate",), ("migrate", "--dry-run"), ("migrate", "--rehearse")])
def test_nothing_runs(scene: Scene, command: tuple[str, ...]) -> None:
    before = scene.database.contents()
    run = scene.start(*command, MIGRATION_ON_FAILURE="exit", **REFUSE)
    assert run.wait() == 65, run.report()
    error = only_error(run)
    assert error["event"] == "migration.out_of_order"
    assert error["message"].startswith(f"{FIRST} (and 1 more like it); it was not run")
    assert error["faults"] == [FIRST, FIRST.replace("002_b", "003_c")]
    assert "a number above 004" in error["remedy"]
    assert "MIGRATION_OUT_OF_ORDER=warn" in error["remedy"]
    assert scene.database.contents() == before


def test_the_application_may_start_all_the_same(scene: Scene) -> None:
    outcome = scene.run(**REFUSE)
    assert (outcome.outcome, outcome.version) == ("failed", "4")
    assert FIRST in outcome.error
    assert not scene.database.exists("e")


def test_what_is_in_order_runs(scene: Scene) -> None:
    for name in ("002_b.sql", "003_c.sql"):
        (scene.migrations / name).unlink()
    run = scene.start(**REFUSE)
    assert told(run)[:2] == ("migrated", "5")
    assert scene.run(**REFUSE).outcome == "up_to_date"


@pytest.mark.parametrize("env", [{}, {"MIGRATION_OUT_OF_ORDER": "warn"}])
def test_without_it_they_run_with_a_warning(scene: Scene, env: dict[str, str]) -> None:
    dry = scene.start("migrate", "--dry-run", **env).ok().stdout
    assert "002_b.sql  (1 statement, one transaction, after 004 was applied)" in dry
    assert "005_e.sql  (1 statement, one transaction)" in dry
    run = scene.start(**env)
    assert told(run)[:2] == ("migrated", "5")
    assert [record["file"] for record in run.logs("migration.out_of_order")] == ["002_b.sql", "003_c.sql"]
    assert len([text for text in warnings(run) if "comes before 004, which is already applied" in text]) == 2


def test_what_becomes_late_while_we_wait_is_refused_too(scene: Scene, tmp_path: Path) -> None:
    """While this image waited for the lock, another one applied the newer file."""
    for name in LATE:
        (scene.migrations / name).unlink()
    scene.write({"006_gate.sql": Gate.PASS, "008_new.sql": "CREATE TABLE new ()"})
    write_migrations(tmp_path / "other", {**APPLIED, "006_gate.sql": Gate.PASS, "007_x.sql": "CREATE TABLE x ()"})
    with Gate(scene.database) as gate:
        holder = scene.start("migrate")
        gate.arrival()
        late = scene.start("migrate", MIGRATIONS_DIR=str(tmp_path / "other"), **REFUSE)
        late.until("lock.waiting")
    holder.ok()
    assert late.wait() == 65, late.report()
    assert "007_x.sql is not applied, but 008_new.sql, which comes after it, is" in only_error(late)["message"]
    assert not scene.database.exists("x")
    assert scene.lock_is_free()


def test_status_says_so(scene: Scene) -> None:
    (line,) = (line for line in scene.start("status", **REFUSE).ok().stdout.splitlines() if "Warning" in line)
    assert f"Warning: {FIRST}; 003_c.sql is not applied" in line
    assert "exit code 65" in line
    answer = json.loads(scene.start("status", "--json", **REFUSE).ok().stdout)
    assert answer["refused"].startswith(FIRST)
    assert (answer["status"], answer["pendingMigrations"]) == ("pending", 3)
    assert json.loads(scene.start("status", "--json").ok().stdout)["refused"] is None


def test_nobody_waits_for_what_nobody_runs(scene: Scene) -> None:
    run = scene.start("wait", **REFUSE)
    assert run.wait() == 65, run.report()
    assert FIRST in only_error(run)["message"]


@pytest.mark.thorough
def test_a_row_that_was_deleted_is_late(scene: Scene) -> None:
    scene.migrated()
    scene.database.execute("DELETE FROM schema_migrations WHERE migration_number = 3")
    run = scene.start("migrate", **REFUSE)
    assert run.wait() == 65, run.report()
    assert only_error(run)["faults"] == ["003_c.sql is not applied, but 005_e.sql, which comes after it, is"]


def test_a_bad_value_is_refused(scene: Scene) -> None:
    run = scene.start("migrate", MIGRATION_OUT_OF_ORDER="ignore")
    assert run.wait() == 78, run.report()
    assert "MIGRATION_OUT_OF_ORDER" in only_error(run)["message"]
