"""The final message names what was in the way: a standby, a lock on the ledger, a writer, or a refusal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
import pytest

from conftest import new_database
from kit.processes import until
from scene import Scene, errors, only_error, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import ServerFactory
    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene at version 1."""
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a (i integer)"})
    scene.migrated()
    return scene


# --- A missing synchronous standby ----------------------------------------------------------------------


@pytest.fixture
def alone(fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Iterator[Scene]:
    """Return a scene at version 1 whose server now waits for a standby that never comes."""
    with new_database(fresh_server(), "alone") as database:
        scene = Scene(database, migrations_dir, run_entrypoint)
        scene.write({"001_a.sql": "CREATE TABLE a (i integer)"})
        scene.migrated()
        database.execute("ALTER SYSTEM SET synchronous_standby_names = 'far_away'")
        database.execute("SELECT pg_reload_conf()")
        try:
            yield scene
        finally:
            database.execute("ALTER SYSTEM RESET synchronous_standby_names")
            database.execute("SELECT pg_reload_conf()")


@pytest.mark.case("D3")
@pytest.mark.parametrize(
    "script",
    [
        pytest.param("CREATE INDEX CONCURRENTLY a_i ON a (i);", id="a statement that commits within"),
        pytest.param("-- entrypoint: no-transaction\nCREATE TABLE b ();\nVACUUM a;", id="a unit's commit"),
        pytest.param("VACUUM a;", id="the row's own commit"),
        pytest.param("CREATE TABLE b ();", id="in a transaction"),
    ],
)
def test_a_standby_that_is_waited_for_is_named_when_the_time_is_over(alone: Scene, script: str) -> None:
    alone.write({"002_b.sql": script, "003_c.sql": "CREATE TABLE c ();"})
    run = alone.start(MIGRATION_TIMEOUT_MS=4000)
    assert "synchronous_standby_names = 'far_away'" in told(run).error, run.report()
    error = errors(run)[-1]
    assert error["event"] == "migration.timeout", run.report()
    assert "synchronous_standby_names = 'far_away'" in error["message"]
    assert error["remedy"].startswith("Bring the standby back")
    assert "network" not in run.stderr


@pytest.mark.thorough
@pytest.mark.case("D3")
def test_a_change_of_the_ledger_that_waits_for_a_standby_says_so(alone: Scene) -> None:
    alone.write({"002_b.sql": "SELECT 1"})
    spoil = "UPDATE schema_migrations SET checksum = repeat('0', 64)"
    alone.database.execute(f"SET synchronous_commit = local; {spoil}")
    for command in (("baseline", "2"), ("repair", "--checksums")):
        run = alone.start(*command, "--yes", MIGRATION_TIMEOUT_MS=3000).ok()
        (doubt,) = run.logs("ledger.commit_in_doubt")
        assert doubt["verdict"] == "committed"
        assert "waited for a synchronous standby (synchronous_standby_names = 'far_away')" in doubt["message"]
        assert "Bring the standby back" in doubt["remedy"]
        assert "no answer" not in run.stderr, run.report()


@pytest.mark.thorough
@pytest.mark.case("D3")
def test_what_need_not_be_on_a_standby_waits_for_none(alone: Scene) -> None:
    alone.write({"002_b.sql": "SELECT 1/0"})
    run = alone.migrate(MIGRATION_TIMEOUT_MS=20000)
    assert only_error(run)["event"] == "migration.failed"
    assert not run.logs("ledger.failure_not_recorded"), run.report()
    assert alone.ledger() == [(1, "completed"), (2, "failed")]
    dead = "UPDATE migration_lock SET locked_at = now(), locked_by = 'dead', token = 'dead.1'"
    alone.database.execute(f"SET synchronous_commit = local; {dead}")
    assert alone.start("unlock").ok().stdout.endswith("Freed the row.\nThe lock is free.\n")


# --- Somebody has locked the ledger ---------------------------------------------------------------------


def locking(scene: Scene, statement: str, name: str = "hans") -> psycopg.Connection[tuple[object, ...]]:
    """Return a session with an open transaction that has run this `statement`."""
    connection = scene.database.connect()
    connection.execute(f"SET application_name = '{name}'; BEGIN; {statement}")
    return connection


@pytest.mark.case("D6")
@pytest.mark.parametrize("script", ["CREATE TABLE b ();", "VACUUM a;"], ids=["inside", "outside"])
def test_who_has_locked_the_ledger_while_a_file_commits_is_named(scene: Scene, script: str) -> None:
    scene.write({"002_b.sql": script})
    with locking(scene, "LOCK TABLE schema_migrations IN SHARE MODE") as hans:
        pid = hans.info.backend_pid
        run = scene.migrate(MIGRATION_TIMEOUT_MS=3000)
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert error["blocker"] == pid, run.report()
    assert f"waited behind backend {pid} (postgres, hans, idle in transaction" in error["message"]
    assert "schema_migrations" in error["message"]
    assert error["remedy"].startswith(
        f"Wait until that transaction ends, or end the session: SELECT pg_terminate_backend({pid})"
    )
    assert "network" not in run.stderr
    assert "COMMIT" not in run.stderr


@pytest.mark.thorough
@pytest.mark.case("D6")
@pytest.mark.parametrize(
    "lock", ["LOCK TABLE schema_migrations IN SHARE MODE", "LOCK TABLE schema_migrations IN ROW EXCLUSIVE MODE"]
)
def test_who_has_locked_the_ledger_before_an_operator_changes_it_is_named(scene: Scene, lock: str) -> None:
    scene.write({"002_b.sql": "SELECT 1"})
    scene.database.execute("UPDATE schema_migrations SET checksum = repeat('0', 64)")
    with locking(scene, lock) as hans:
        pid = hans.info.backend_pid
        for command in (("baseline", "2"), ("repair", "--checksums")):
            run = scene.start(*command, "--yes", MIGRATION_TIMEOUT_MS=3000, MIGRATION_LOCK_TIMEOUT_MS=3000)
            assert run.wait() == 75, run.report()
            error = only_error(run)
            assert error["event"] == "lock.timeout"
            assert (
                f"The migration history is locked by backend {pid} (postgres, hans, idle in transaction"
                in error["message"]
            )
            assert f"pg_terminate_backend({pid})" in error["remedy"]
            (told_first, *_) = run.logs("ledger.locked")
            assert f"backend {pid}" in told_first["message"]


@pytest.mark.case("C9")
@pytest.mark.case("D6")
@pytest.mark.parametrize(
    "lock",
    [
        "SELECT FROM migration_lock FOR UPDATE",
        "UPDATE migration_lock SET locked_at = NULL",
        "LOCK TABLE migration_lock IN SHARE MODE",
        "LOCK TABLE migration_lock",
    ],
)
def test_who_has_locked_the_row_is_named_and_is_no_holder(scene: Scene, lock: str) -> None:
    scene.write({"002_b.sql": "SELECT 1"})
    with locking(scene, lock) as hans:
        pid = hans.info.backend_pid
        for command in (("migrate",), ("baseline", "2", "--yes")):
            run = scene.start(*command, MIGRATION_LOCK_TIMEOUT_MS=4000)
            assert run.wait() == 75, run.report()
            error = only_error(run)
            assert error["message"].startswith(
                "Failed to acquire migration lock after 4000ms: the migration history is locked by"
            )
            assert f"backend {pid} (postgres, hans, idle in transaction" in error["message"]
            assert "unlock" not in error["remedy"]
            assert f"pg_terminate_backend({pid})" in error["remedy"]
        run = scene.start("unlock")
        assert run.wait() == 75, run.report()
        assert f"backend {pid} " in only_error(run)["message"]
        assert "hans" in only_error(run)["message"]
        assert f"pg_terminate_backend({pid})" in only_error(run)["remedy"]
        assert "is free" not in run.stdout
        assert "Worker" not in run.stdout
        assert scene.start("unlock", "--force").wait() in (64, 75), "it asks, or cannot look"
        assert hans.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.thorough
@pytest.mark.case("C9")
def test_who_has_locked_the_row_is_ended_by_force_after_it_was_named(scene: Scene) -> None:
    with locking(scene, "SELECT FROM migration_lock FOR UPDATE") as hans:
        pid = hans.info.backend_pid
        run = scene.start("unlock", "--force", "--yes").ok()
        assert f"Stranger: backend {pid} of postgres, application hans" in run.stdout
        assert "Ending the session that has locked migration_lock." in run.stdout
        assert run.stdout.endswith(f"Ended backend {pid}.\nThe lock is free.\n")
        hans.pgconn.finish()


@pytest.mark.thorough
@pytest.mark.case("C9")
def test_the_row_of_a_dead_holder_that_somebody_has_locked_ends_nobody(scene: Scene) -> None:
    scene.database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'dead', token = 'dead.1'")
    with locking(scene, "SELECT FROM migration_lock FOR UPDATE") as hans:
        run = scene.start("unlock", "--force", "--yes")
        assert run.wait() == 75, run.report()
        assert f"backend {hans.info.backend_pid} (postgres, hans" in only_error(run)["message"]
        assert hans.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.case("D6")
@pytest.mark.parametrize("budget", [5000, 9000])
def test_the_writer_that_a_concurrent_build_waits_for_is_named(scene: Scene, budget: int) -> None:
    scene.write({"002_i.sql": "CREATE INDEX CONCURRENTLY a_i ON a (i);"})
    scene.database.execute("INSERT INTO a VALUES (1)")
    with locking(scene, "UPDATE a SET i = 2") as hans:
        pid = hans.info.backend_pid
        run = scene.migrate(MIGRATION_TIMEOUT_MS=budget)
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert error["blocker"] == pid, run.report()
    assert f"pg_terminate_backend({pid})" in error["remedy"]
    scene.migrated()


def answers(database: Database) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return bool(database.one("SELECT true"))
    return False


# --- Repeated refusals ----------------------------------------------------------------------------------


@pytest.mark.case("B4")
@pytest.mark.parametrize(
    ("sqlstate", "remedy"),
    [
        ("40001", "Other sessions keep changing"),
        ("53300", "The server that the statement connects to has too many clients"),
        ("57P02", "Check the server's log"),
    ],
)
def test_the_remedy_is_about_what_the_last_attempt_met(scene: Scene, sqlstate: str, remedy: str) -> None:
    scene.write({"002_b.sql": f"DO $$ BEGIN RAISE 'not yet' USING ERRCODE = '{sqlstate}'; END $$;"})
    error = only_error(scene.migrate(MIGRATION_TIMEOUT_MS=2500))
    assert error["event"] == "migration.timeout"
    assert error["message"].endswith("The last attempt ended with: 002_b.sql: not yet")
    assert error["remedy"].startswith(remedy)
    assert "shorter" not in error["remedy"]


@pytest.mark.thorough
@pytest.mark.case("B2")
def test_no_start_tries_a_way_back_again(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    with new_database(fresh_server(), "back") as database:
        scene = Scene(database, migrations_dir, run_entrypoint)
        scene.write({"001_a.sql": "CREATE TABLE a ()"})
        scene.migrated()
        (scene.migrations / "rollback").mkdir()
        (scene.migrations / "rollback" / "001_a.sql").write_text("COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID';")
        run = scene.start("rollback", "--to", "0", "--yes", DB_CONNECT_ATTEMPTS=8)
        assert run.wait(60) == 70, run.report()
        (error,) = run.logs("migration.lost")
        assert "next start" not in error["remedy"]
        assert "run entrypoint rollback again" in error["remedy"]
        assert ".." not in error["message"]
        # The server may still be recovering from the last crash.
        until(lambda: answers(database), 30, "the server's recovery")
