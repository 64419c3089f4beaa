"""Lost connections: which session was lost, how often, and what is reported when time runs out."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from conftest import missing, new_database
from kit.pooler import executable, pooler
from kit.processes import until
from scene import Scene, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


# --- Repeated losses at the same statement --------------------------------------------------------------


@pytest.mark.case("B2")
def test_a_statement_that_crashes_the_server_each_time(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    with new_database(fresh_server(), "crash") as database:
        scene = Scene(database, migrations_dir, run_entrypoint)
        scene.write({"001_crash.sql": "CREATE TABLE a ();\n\nCOPY (SELECT 1) TO PROGRAM 'kill -9 $PPID';\n"})
        run = scene.start("migrate", DB_CONNECT_ATTEMPTS=8)
        assert run.wait(60) == 70, run.report()
        assert "3 times at statement" in run.logs("migration.lost")[0]["message"], run.report()
        (error,) = run.logs("migration.lost")
        assert error["file"] == "001_crash.sql"
        assert error["losses"] == 3
        assert error["message"].startswith(("001_crash.sql:1: ", "001_crash.sql:3: "))
        assert "the next start tries again" in error["remedy"]
        # The server may still be recovering from the last crash.
        until(lambda: _answers(database), 30, "the server's recovery")
        assert scene.ledger() == []
        # The pause grew each time.
        lost = run.logs("database.lost")
        assert len(lost) == 2
        scene.write({"001_crash.sql": "CREATE TABLE a ();"})
        scene.migrated()


def _answers(database: Database) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return bool(database.one("SELECT true"))
    return False


@pytest.mark.case("B6")
def test_an_operator_ends_the_worker_after_the_guard_was_won_back(scene: Scene) -> None:
    scene.write({"001_long.sql": "SELECT pg_sleep(60);"})
    run = scene.start("migrate")
    sleeping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    ((worker,),) = until(lambda: scene.database.rows(sleeping), 15, "the long statement")
    guards = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
    scene.database.execute(f"SELECT pg_terminate_backend(pid) FROM ({guards}) g WHERE pid <> {worker}")
    run.until("lock.guard_regained")
    time.sleep(2)  # the next loss must not look like part of this one
    scene.database.execute(f"SELECT pg_terminate_backend({worker})")
    assert run.wait(15) == 70, run.report()
    assert only_error(run)["event"] == "migration.stopped"


# --- The statement's own connections --------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.case("B4")
@pytest.mark.parametrize("sqlstate", ["08001", "08006"])
@pytest.mark.parametrize("directive", ["", "-- entrypoint: no-transaction\n"], ids=["inside", "outside"])
def test_a_connection_of_the_statements_own_is_not_ours(scene: Scene, sqlstate: str, directive: str) -> None:
    """postgres_fdw, dblink and CREATE SUBSCRIPTION say this if nobody answers."""
    refused = f"DO $$ BEGIN RAISE 'could not connect to server \"far\"' USING ERRCODE = '{sqlstate}'; END $$;"
    scene.write({"001_far.sql": directive + refused})
    run = scene.start("migrate", MIGRATION_TIMEOUT_MS=20000)
    assert run.wait(10) == 70, run.report()
    error = only_error(run)
    assert error["event"] == "migration.failed"
    assert error["sqlstate"] == sqlstate
    assert scene.ledger() == [(1, "failed")]


@pytest.mark.case("B4")
def test_when_the_time_is_over_the_last_cause_is_told(scene: Scene) -> None:
    scene.write({"001_again.sql": "DO $$ BEGIN RAISE 'not yet' USING ERRCODE = '40001'; END $$;"})
    run = scene.migrate(MIGRATION_TIMEOUT_MS=2500)
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert "not yet" in error["message"]


# --- Sessions that the server or a pooler ends by a rule ------------------------------------------------

SLOW_INDEX = {
    "001_slow.sql": "CREATE TABLE t AS SELECT 1 AS id;\n"
    "CREATE FUNCTION slow(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS "
    "$$ BEGIN PERFORM pg_sleep(2); RETURN $1; END $$;",
    "002_index.sql": "CREATE INDEX CONCURRENTLY t_slow ON t (slow(id));",
}


@pytest.mark.case("B3")
@pytest.mark.parametrize("setting", ["transaction_timeout", "statement_timeout", "idle_in_transaction_session_timeout"])
def test_a_default_of_the_databases_does_not_end_us(
    servers_by_version: dict[int, Server],
    request: pytest.FixtureRequest,
    migrations_dir: Path,
    run_entrypoint: Callable[..., Run],
    setting: str,
) -> None:
    with new_database(servers_by_version[18], request.node.name) as database:
        database.execute(f"ALTER DATABASE \"{database.name}\" SET {setting} = '1s'")
        scene = Scene(database, migrations_dir, run_entrypoint)
        scene.write(SLOW_INDEX)
        run = scene.migrate(MIGRATION_TIMEOUT_MS=20000)
        assert run.wait() == 0, run.report()
        assert not run.logs("database.lost"), run.report()


@pytest.mark.case("B3")
def test_a_session_may_be_idle_between_two_attempts(scene: Scene) -> None:
    scene.database.execute(f"ALTER DATABASE \"{scene.database.name}\" SET idle_session_timeout = '200ms'")
    scene.database.execute("CREATE TABLE tries (); CREATE SEQUENCE n")
    script = "DO $$ BEGIN IF nextval('n') < 4 THEN RAISE 'not yet' USING ERRCODE = '40001'; END IF; END $$;"
    scene.write({"001_again.sql": script})
    run = scene.migrate()
    assert run.wait() == 0, run.report()
    assert len(run.logs("migration.retry")) == 3
    assert not run.logs("database.lost"), run.report()


@pytest.mark.case("B3")
def test_a_poolers_rule_is_named_and_not_tried_for_ever(scene: Scene) -> None:
    if executable() is None:
        missing("no PgBouncer")
    scene.write({"001_long.sql": "SELECT pg_sleep(30);"})
    with pooler(scene.database.server, pool_size=5, query_timeout=1) as port:
        run = scene.start("migrate", url=scene.database.url_at(port))
        assert run.wait(40) == 70, run.report()
    error = only_error(run)
    assert error["event"] == "migration.lost"
    assert error["setting"] == "query_timeout", run.report()
    assert "query_timeout" in error["remedy"]
    assert "MIGRATION_DATABASE_URL" in error["remedy"]


@pytest.mark.case("B3")
def test_a_rule_that_ends_the_guard_is_named(scene: Scene) -> None:
    if executable() is None:
        missing("no PgBouncer")
    scene.write({"001_long.sql": "SELECT pg_sleep(3);"})
    with pooler(scene.database.server, pool_size=5, idle_transaction_timeout=1) as port:
        run = scene.migrated(url=scene.database.url_at(port))
    lost = run.logs("lock.guard_lost")[0]
    assert lost["setting"] == "idle_transaction_timeout", run.report()
    assert "PgBouncer ended the session because of its idle_transaction_timeout. Raise it" in lost["remedy"]


# --- Waits in the log ------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.case("D3")
def test_a_commit_that_waits_for_a_standby(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    with new_database(fresh_server(), "standby") as database:
        scene = Scene(database, migrations_dir, run_entrypoint)
        scene.write({"001_thing.sql": "CREATE TABLE thing ();"})
        scene.migrated()
        database.execute("ALTER SYSTEM SET synchronous_standby_names = 'far_away'")
        database.execute("SELECT pg_reload_conf()")
        try:
            scene.write({"002_other.sql": "CREATE TABLE other ();"})
            run = scene.start("migrate", MIGRATION_TIMEOUT_MS=8000)
            waits = run.until("migration.commit_waits", timeout=15)
            assert "far_away" in waits["message"]
            assert "synchronous_standby_names" in waits["remedy"]
            run.wait(30)
            (doubt,) = run.logs("migration.commit_in_doubt")
            assert "synchronous_standby_names = 'far_away'" in doubt["message"], run.report()
            assert "network" not in run.stderr, run.report()
        finally:
            database.execute("ALTER SYSTEM RESET synchronous_standby_names")
            database.execute("SELECT pg_reload_conf()")


@pytest.mark.case("D6")
def test_the_blocker_is_named_when_the_time_is_over(scene: Scene) -> None:
    scene.database.execute("CREATE TABLE busy ()")
    scene.write({"001_busy.sql": "ALTER TABLE busy ADD a text;"})
    with scene.database.connect() as other, other.transaction():
        other.execute("SELECT * FROM busy")
        pid = other.info.backend_pid
        run = scene.migrate(MIGRATION_TIMEOUT_MS=4000)
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert error["blocker"] == pid, run.report()
    assert f"backend {pid}" in error["message"]
    assert f"pg_terminate_backend({pid})" in error["remedy"]
