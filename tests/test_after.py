"""Files with `phase = after`: when each one runs, what waits for it, and what reports it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from kit.processes import until
from scene import Gate, Scene, only_error, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Record, Run

AFTER = "-- entrypoint: phase = after\n"
EXPAND = {"001_t.sql": "CREATE TABLE t (old int, new int);"}
CONTRACT = {"002_drop.sql": f"{AFTER}ALTER TABLE t DROP COLUMN old;"}
NEXT = {"003_more.sql": "CREATE TABLE more ();"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def expanded(scene: Scene, *releases: dict[str, str]) -> None:
    """Run the first release, then put the files of the later `releases` in place."""
    scene.write(EXPAND)
    assert scene.run().outcome == "migrated"
    for files in releases:
        scene.write(files)


def after(scene: Scene, *options: str, url: str = "", **env: str | int) -> Run:
    run = scene.start(
        "migrate", "--phase", "after", *options, url=url, **{name: str(value) for name, value in env.items()}
    )
    run.wait()
    return run


def status(scene: Scene) -> dict[str, object]:
    answer = json.loads(scene.start("status", "--json").ok().stdout)
    assert isinstance(answer, dict)
    return answer


def refused(run: Run, code: int) -> Record:
    """Wait for the program to exit with this code, and return the only error in its log."""
    assert run.wait() == code, run.report()
    return only_error(run)


def states(answer: dict[str, object]) -> dict[int, str]:
    lines = answer["migrations"]
    assert isinstance(lines, list)
    return {line["number"]: line["state"] for line in lines}


def test_a_start_passes_it_by_and_says_so(scene: Scene) -> None:
    expanded(scene, CONTRACT, NEXT)
    first = scene.start()
    assert told(first)[:2] == ("migrated", "3")
    assert first.logs("migration.outstanding")[0]["files"] == ["002_drop.sql"]
    second = scene.start()
    assert told(second)[:2] == ("up_to_date", "3")
    (line,) = second.logs("migration.outstanding")
    assert "--phase after" in str(line["message"])
    migrated = scene.migrated()
    assert "migration.outstanding" in migrated.events()
    assert scene.ledger() == [(1, "completed"), (3, "completed")]
    scene.start("wait", "--for", "schema", "--timeout", "0").ok()


def test_what_status_says(scene: Scene) -> None:
    expanded(scene, CONTRACT, NEXT)
    assert states(status(scene)) == {1: "applied", 2: "after", 3: "pending"}
    scene.run()
    answer = status(scene)
    assert (answer["status"], answer["pendingMigrations"], answer["outstandingMigrations"]) == ("up_to_date", 0, 1)
    assert answer["outstandingSince"] == scene.database.one(
        "SELECT to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM schema_migrations"
        " WHERE migration_number = 1"
    )
    assert states(answer) == {1: "applied", 2: "after", 3: "applied"}
    text = scene.start("status", "--exit-code").ok().stdout
    assert "1 migration waits for the rollout to end" in text.splitlines()[1]
    after(scene).ok()
    answer = status(scene)
    assert (answer["currentVersion"], answer["outstandingMigrations"], answer["outstandingSince"]) == (3, 0, None)


def test_what_status_says_while_one_runs(scene: Scene) -> None:
    expanded(scene, {"002_drop.sql": f"{AFTER}{Gate.PASS}"}, {"003_drop.sql": f"{AFTER}DROP TABLE t;"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate", "--phase", "after")
        gate.arrival()
        until(lambda: scene.lock()["progress_migration"] == "002_drop.sql", 20, "the name in the lock's row")
        text = scene.start("status", "--pending", "--exit-code").ok().stdout
        assert re.search(r"002\s+002_drop\.sql\s+running", text), text
        assert "002_drop.sql is running. 1 migration waits for the rollout to end" in " ".join(text.split())
        listed = json.loads(scene.start("status", "--pending", "--json").ok().stdout)
        assert states(listed) == {2: "after"}
        gate.open()
        assert run.wait() == 0


def test_after_the_rollout_everything_pending_runs_in_the_order_of_numbers(scene: Scene) -> None:
    expanded(scene, CONTRACT, NEXT, {"004_drop.sql": f"{AFTER}DROP TABLE more;"})
    run = after(scene).ok()
    assert [line["file"] for line in run.logs("migration.applied")] == ["002_drop.sql", "003_more.sql", "004_drop.sql"]
    (line,) = run.logs("migration.after")
    assert line["files"] == ["002_drop.sql", "004_drop.sql"]
    assert "cannot show whether replicas" in str(line["message"])
    assert "migration.out_of_order" not in run.events()
    assert after(scene).ok().logs("schema.up_to_date")


@pytest.mark.thorough
def test_applied_late_it_is_not_out_of_order(scene: Scene) -> None:
    expanded(scene, CONTRACT, NEXT)
    scene.run()
    run = after(scene, MIGRATION_OUT_OF_ORDER="refuse").ok()
    assert "migration.out_of_order" not in run.events()
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


def test_it_never_overtakes_and_holds_back_only_its_like(scene: Scene) -> None:
    fill = {"002_fill.sql": f"{AFTER}UPDATE t SET new = old / 0;"}
    expanded(scene, fill, NEXT, {"004_drop.sql": f"{AFTER}ALTER TABLE t DROP COLUMN old;"})
    scene.database.execute("INSERT INTO t VALUES (1)")
    assert refused(after(scene), 70)["event"] == "migration.failed"
    assert scene.ledger() == [(1, "completed"), (2, "failed")]
    # Files that are not `after` still run, despite the failure.
    assert scene.run()[:2] == ("migrated", "3")
    assert refused(after(scene), 70)["event"] == "migration.held_back"
    assert scene.database.one("SELECT old FROM t") == 1
    answer = status(scene)
    assert (answer["status"], states(answer)) == ("error", {1: "applied", 2: "failed", 3: "applied", 4: "after"})
    assert scene.run()[:2] == ("up_to_date", "3")
    scene.start("wait", "--version", "3", "--timeout", "0").ok()

    scene.write({"002_fill.sql": f"{AFTER}UPDATE t SET new = old;"})
    after(scene).ok()
    assert scene.database.one("SELECT to_jsonb(t) FROM t") == {"new": 1}


@pytest.mark.thorough
def test_a_required_migration_is_waited_for_without_a_failure(scene: Scene) -> None:
    expanded(scene, CONTRACT, NEXT, {"004_again.sql": "-- entrypoint: requires = 2\nALTER TABLE t ADD old text;"})
    run = scene.migrate()
    error = refused(run, 70)
    assert (error["event"], error["requires"], error["file"]) == ("migration.requires", 2, "004_again.sql")
    assert scene.ledger() == [(1, "completed"), (3, "completed")]
    assert scene.run().outcome == "failed"
    assert refused(scene.start("wait", "--for", "schema", "--timeout", "5"), 70)["event"] == "migration.requires"
    assert "Then it would stop" not in scene.start("migrate", "--phase", "after", "--dry-run").ok().stdout
    after(scene).ok()
    assert scene.ledger()[-1] == (4, "completed")


@pytest.mark.thorough
def test_a_dry_run_and_a_rehearsal_know_it(scene: Scene) -> None:
    expanded(scene, CONTRACT)
    assert "After the rollout" in (shown := scene.start("migrate", "--dry-run").ok().stdout)
    assert shown.partition("\n")[2].startswith("Nothing is pending.\n")
    shown = scene.start("migrate", "--phase", "after", "--dry-run").ok().stdout
    assert "002_drop.sql" in shown
    assert "phase after" in shown
    assert "Nothing is pending" in scene.start("migrate", "--rehearse").ok().stdout
    assert "Rehearsed 1 of 1" in scene.start("migrate", "--phase", "after", "--rehearse").ok().stdout
    assert scene.ledger() == [(1, "completed")]


def test_the_last_number_and_a_baseline_count_it(scene: Scene) -> None:
    scene.write({**EXPAND, **CONTRACT, **NEXT})
    run = scene.start("baseline", "3", "--yes").ok()
    assert "002_drop.sql" in run.stdout
    assert "phase after" in run.stdout
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


@pytest.mark.thorough
def test_only_up_to_a_number(scene: Scene) -> None:
    expanded(scene, CONTRACT, NEXT)
    assert "migration.applied" not in scene.start("migrate", "--to", "2").ok().events()
    after(scene, "--to", "2").ok()
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
def test_wait_for_a_version_waits_for_that_migration_itself(scene: Scene) -> None:
    expanded(scene, CONTRACT, NEXT)
    scene.run()
    waiter = scene.start("wait", "--version", "2", "--timeout", "60")
    waiter.until("wait.waiting")
    assert "002_drop.sql is not applied" in str(waiter.logs("wait.waiting")[0]["message"])
    after(scene).ok()
    waiter.ok()
    (scene.migrations / "002_drop.sql").unlink()
    scene.start("wait", "--version", "2", "--timeout", "0").ok()


def test_the_common_time_out_is_not_its_own(scene: Scene) -> None:
    expanded(scene, {"002_long.sql": f"{AFTER}SELECT pg_sleep(2);"})
    after(scene, MIGRATION_TIMEOUT_MS=500).ok()


@pytest.mark.thorough
def test_what_is_wrong_with_it_is_found_before_the_rollout(scene: Scene) -> None:
    expanded(scene, NEXT, {"004_drop.sql": f"{AFTER}\\i other.sql\n"})
    error = refused(scene.migrate(), 65)
    assert "004_drop.sql" in str(error["faults"])
    assert scene.ledger() == [(1, "completed")]


# A new database.


def test_a_new_database_gets_everything_at_once(scene: Scene) -> None:
    scene.write({**EXPAND, **CONTRACT, **NEXT})
    run = scene.start()
    assert told(run)[:2] == ("migrated", "3")
    assert [line["file"] for line in run.logs("migration.applied")] == ["001_t.sql", "002_drop.sql", "003_more.sql"]
    assert not {"migration.after", "migration.outstanding"} & set(run.events())
    assert scene.database.one("SELECT count(*) FROM schema_migrations WHERE initial_up_to IS NOT NULL") == 0


def test_a_new_database_still_does_after_a_crash(scene: Scene) -> None:
    scene.write({**EXPAND, "002_drop.sql": f"{AFTER}{Gate.PASS} ALTER TABLE t DROP COLUMN old;", **NEXT})
    with Gate(scene.database) as gate:
        first = scene.start()
        gate.arrival()
        assert scene.database.rows("SELECT initial_up_to FROM schema_migrations") == [(3,)]
        first.kill()
    # A newer image continues, but holds its own `after` file back: the database may be in use by now.
    scene.write({"004_late.sql": f"{AFTER}DROP TABLE more;"})
    assert scene.start("status", "--exit-code").wait() == 10
    second = scene.start()
    assert told(second)[:2] == ("migrated", "3")
    assert second.logs("migration.outstanding")[0]["files"] == ["004_late.sql"]
    assert scene.database.one("SELECT count(*) FROM schema_migrations WHERE initial_up_to IS NOT NULL") == 0


@pytest.mark.thorough
@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.thorough)])
def test_replicas_on_a_new_database_of_which_one_is_killed_half_way(scene: Scene, count: int) -> None:
    scene.write({**EXPAND, "002_drop.sql": f"{AFTER}{Gate.PASS} ALTER TABLE t DROP COLUMN old;", **NEXT})
    with Gate(scene.database) as gate:
        replicas = [scene.start() for _ in range(count)]
        gate.arrival()
        (holder,) = until(
            lambda: [run for run in replicas if run.logs("lock.acquired")], 15, "somebody who has the lock"
        )
        holder.kill()
    everybody = [told(run) for run in replicas if run is not holder]
    assert sorted(one.outcome for one in everybody).count("migrated") == 1
    assert {(one.version, one.error) for one in everybody} == {("3", "")}
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]
    assert scene.run().outcome == "up_to_date"


def test_an_adopted_or_baselined_database_is_not_new(scene: Scene) -> None:
    scene.write({**EXPAND, **CONTRACT, **NEXT})
    scene.database.execute(EXPAND["001_t.sql"])
    scene.start("baseline", "1", "--yes").ok()
    assert scene.run()[:2] == ("migrated", "3")
    assert scene.ledger() == [(1, "completed"), (3, "completed")]


def test_outside_a_transaction_it_has_its_floor_and_its_mark_as_well(scene: Scene) -> None:
    scene.write(
        {
            "001_t.sql": "-- entrypoint: no-transaction\nCREATE TABLE t (id int);",
            "002_i.sql": f"{AFTER}-- entrypoint: floor = 001_t.sql\nCREATE INDEX CONCURRENTLY i ON t (id);",
            "003_gate.sql": f"{AFTER}{Gate.PASS}",
        }
    )
    rows = "SELECT migration_number, floor, initial_up_to FROM schema_migrations ORDER BY 1"
    with Gate(scene.database) as gate:
        run = scene.start()
        gate.arrival()
        assert scene.database.rows(rows) == [(1, None, 3), (2, "001_t.sql", None)]
    assert told(run)[:2] == ("migrated", "3")
    assert scene.database.rows(rows) == [(1, None, None), (2, "001_t.sql", None), (3, None, None)]


@pytest.mark.thorough
def test_through_a_pooler_it_is_the_same(scene: Scene, small_pool: int) -> None:
    scene.write({**EXPAND, **FLOOR, **NEXT})
    url = scene.database.url_at(small_pool)
    assert scene.run(url=url)[:2] == ("migrated", "3")
    scene.write({"004_drop.sql": f"{AFTER}DROP TABLE more;"})
    assert scene.run(url=url)[:2] == ("up_to_date", "3")
    after(scene, url=url).ok()
    older(scene)
    (scene.migrations / "004_drop.sql").unlink()
    assert scene.run(url=url).outcome == "failed"


# The floor.

FLOOR = {"002_drop.sql": f"{AFTER}-- entrypoint: floor = 002_drop.sql\nALTER TABLE t DROP COLUMN old;"}


def older(scene: Scene) -> None:
    """Remove the second release's files from the image."""
    for file in (*FLOOR, *NEXT):
        (scene.migrations / file).unlink(missing_ok=True)


@pytest.mark.parametrize("pending", [False, True], ids=["nothing pending", "something pending"])
def test_an_image_below_the_floor(scene: Scene, pending: bool) -> None:  # noqa: FBT001
    expanded(scene, FLOOR)
    after(scene).ok()
    assert scene.run().outcome == "up_to_date"
    older(scene)
    if pending:
        scene.write({"003_other.sql": "CREATE TABLE other ();"})
    application = told(scene.start())
    assert (application.outcome, application.version) == ("failed", "2")
    assert "002_drop.sql" in application.error
    for command in (("run", "--", "true"), ("migrate",), ("migrate", "--phase", "after"), ("migrate", "--dry-run")):
        error = refused(scene.start(*command, MIGRATION_ON_FAILURE="exit"), 78)
        assert (error["event"], error["file"]) == ("schema.below_floor", "002_drop.sql")
        assert "SET floor = NULL" in str(error["remedy"])
    assert refused(scene.start("wait", "--timeout", "5"), 78)["event"] == "schema.below_floor"
    answer = status(scene)
    assert answer["status"] == "error"
    assert "002_drop.sql" in str(answer["belowFloor"])
    assert "too old" in scene.start("status").ok().stdout
    assert scene.ledger() == [(1, "completed"), (2, "completed")]

    scene.database.execute("UPDATE schema_migrations SET floor = NULL")
    assert scene.run().outcome == ("migrated" if pending else "ahead")


def test_a_squashed_file_stands_for_what_a_floor_names(scene: Scene) -> None:
    expanded(scene, FLOOR)
    after(scene).ok()
    older(scene)
    squashed = "-- entrypoint: replaces = 001_t.sql\n-- entrypoint: replaces = 002_drop.sql\nCREATE TABLE t (new int);"
    (scene.migrations / "001_t.sql").unlink()
    scene.write({"002_all.sql": squashed, **NEXT})
    assert scene.run()[:2] == ("migrated", "3")
    assert scene.run()[:2] == ("up_to_date", "3")


@pytest.mark.thorough
def test_a_floor_goes_with_its_row(scene: Scene) -> None:
    expanded(scene, FLOOR)
    (scene.migrations / "rollback").mkdir()
    (scene.migrations / "rollback" / "002_drop.sql").write_text("ALTER TABLE t ADD old int;")
    after(scene).ok()
    assert scene.database.one("SELECT floor FROM schema_migrations WHERE migration_number = 2") == "002_drop.sql"
    scene.start("rollback", "--to", "1", "--yes").ok()
    older(scene)
    assert scene.run()[:2] == ("up_to_date", "1")


@pytest.mark.thorough
def test_a_failed_file_sets_no_floor(scene: Scene) -> None:
    expanded(scene, {"002_drop.sql": FLOOR["002_drop.sql"] + "SELECT 1 / 0;"})
    assert after(scene).wait() == 70
    older(scene)
    assert scene.run().outcome == "up_to_date"


@pytest.mark.thorough
def test_an_older_image_that_waits_meanwhile_is_stopped_too(scene: Scene) -> None:
    """The waiter read the ledger before it had a floor, or even a column for one."""
    expanded(scene, {"002_drop.sql": FLOOR["002_drop.sql"] + Gate.PASS})
    scene.database.execute("ALTER TABLE schema_migrations DROP COLUMN floor, DROP COLUMN initial_up_to")
    with Gate(scene.database) as gate:
        job = scene.start("migrate", "--phase", "after")
        gate.arrival()
        older(scene)
        scene.write({"003_other.sql": "CREATE TABLE other ();"})
        waiter = scene.start(MIGRATION_ON_FAILURE="exit")
        waiter.until("lock.waiting")
    job.ok()
    assert refused(waiter, 78)["event"] == "schema.below_floor"
    assert scene.ledger() == [(1, "completed"), (2, "completed")]


@pytest.mark.thorough
def test_a_ledger_from_before_gets_its_columns_with_the_first_floor(scene: Scene) -> None:
    expanded(scene, FLOOR, NEXT)
    scene.database.execute("ALTER TABLE schema_migrations DROP COLUMN floor, DROP COLUMN initial_up_to")
    assert scene.run()[:2] == ("migrated", "3")
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'schema_migrations'::regclass AND attname = 'floor'"
    assert scene.database.one(columns) == 0
    after(scene).ok()
    assert scene.database.one("SELECT floor FROM schema_migrations WHERE migration_number = 2") == "002_drop.sql"


def test_a_contract_job_beside_running_replicas(scene: Scene) -> None:
    """Replicas of the release that the job belongs to start, and keep running, while it works."""
    expanded(scene, {"002_drop.sql": f"{FLOOR['002_drop.sql']}{Gate.PASS}"})
    with Gate(scene.database) as gate:
        job = scene.start("migrate", "--phase", "after")
        gate.arrival()
        assert {scene.run().outcome for _ in range(3)} == {"up_to_date"}
        second = scene.start("migrate", "--phase", "after")
        second.until("lock.waiting")
    job.ok()
    assert "schema.waited" in second.ok().events()
    assert scene.run()[:2] == ("up_to_date", "2")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("-- entrypoint: requires = 2\nSELECT 1;", "requires itself"),
        ("-- entrypoint: requires = 3\nSELECT 1;", "requires 003, which comes after it"),
        (f"{AFTER}-- entrypoint: floor = 004_y.sql\nSELECT 1;", "its floor names 004_y.sql"),
        ("-- entrypoint: floor = 001_t.sql\nSELECT 1;", "floor only applies to files that run after the rollout"),
        ("-- entrypoint: replaces = 001_t.sql\nSELECT 1;", "replaces 001_t.sql, but that file still exists"),
        ("-- entrypoint: phase = before\nSELECT 1;", "phase = before is not a phase"),
    ],
)
def test_what_is_refused_before_anything_runs(scene: Scene, text: str, rule: str) -> None:
    scene.write({**EXPAND, "002_x.sql": text})
    error = refused(scene.migrate(), 65)
    assert rule in str(error["faults"])
    check = scene.start("check", "--no-lint")
    assert check.wait() == 65
    assert rule in check.stdout + check.stderr
