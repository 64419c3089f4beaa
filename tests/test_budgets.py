"""Each budget covers a whole start: whatever happens in whatever order, the total stays within the bound."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from kit.databases import Database
from kit.processes import until
from scene import Gate, Scene, errors, lock_key, only_error, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psycopg

    from demo.postgres import Server
    from kit.processes import Record, Run

MARGIN = 2.0
GATED = {"002_gate.sql": f"CREATE TABLE b (); {Gate.PASS} SELECT 1/0"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a scene at version 1."""
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    return scene


def when(record: Record) -> float:
    return datetime.fromisoformat(record["time"]).timestamp()


# --- A failure that cannot be recorded ------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.case("B15")
@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("LOCK TABLE schema_migrations IN SHARE MODE", id="the ledger"),
        pytest.param("SELECT FROM migration_lock WHERE id = 1 FOR UPDATE", id="the lock's row"),
    ],
)
@pytest.mark.parametrize(
    "directive", ["", "-- entrypoint: no-transaction\n"], ids=["in a transaction", "outside of one"]
)
def test_a_failure_that_cannot_be_recorded_costs_no_more_than_the_budget(
    scene: Scene, statement: str, directive: str
) -> None:
    arrived = (
        "SELECT query = %s AND (state = 'idle in transaction' OR wait_event_type = 'Lock')"
        " FROM pg_stat_activity WHERE pid = %s"
    )
    scene.write({"002_gate.sql": directive + GATED["002_gate.sql"]})
    with scene.database.connect() as other, Gate(scene.database) as gate:
        run = scene.start(MIGRATION_TIMEOUT_MS=4000)
        gate.arrival()
        other.execute("BEGIN")
        # The second session gets its lock once the migration is rolled back.
        other.pgconn.send_query(statement.encode())
        other.pgconn.flush()
        until(lambda: scene.database.one(arrived, (statement, other.info.backend_pid)), 2, "the statement's arrival")
        gate.open()
        began = time.monotonic()
        assert told(run).outcome == "failed"
        assert time.monotonic() - began < 4 + MARGIN, run.report()
        if not directive:  # otherwise time may run out before the statement that fails
            assert run.logs("ledger.failure_not_recorded"), run.report()
            assert "division by zero" in errors(run)[-1]["message"]
        other.pgconn.finish()


# --- One budget for waiting -----------------------------------------------------------------------------


@pytest.fixture
def crowded(scene: Scene) -> Iterator[Callable[[int], None]]:
    """Return a function that sets how many connections the role `crowded` may have. It starts at none."""
    name = f"crowded_{scene.database.name}"[:60]

    def allow(connections: int) -> None:
        scene.database.execute(f"ALTER ROLE {name} CONNECTION LIMIT {connections}")

    scene.database.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 0; GRANT {name} TO CURRENT_USER;")
    scene.database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}; GRANT ALL ON SCHEMA public TO {name}")
    yield allow
    scene.database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def url_of(scene: Scene) -> str:
    return scene.database.server.url(scene.database.name, user=f"crowded_{scene.database.name}"[:60])


@pytest.mark.thorough
@pytest.mark.case("B16")
def test_too_many_clients_and_then_the_lock_have_one_budget(scene: Scene, crowded: Callable[[int], None]) -> None:
    scene.write(GATED)
    with scene.database.connect() as other:
        other.execute(f"SELECT pg_advisory_lock({lock_key()})")
        run = scene.start("migrate", url=url_of(scene), MIGRATION_LOCK_TIMEOUT_MS=4000, DB_CONNECT_BACKOFF_MS=300)
        until(lambda: len(run.logs("database.retry")) == 4, 15, "refusals")
        crowded(-1)
        assert run.wait() == 75
    assert "after 4000ms" in only_error(run)["message"]
    first, last = run.logs("database.retry")[0], run.logs("lock.timeout")[0]
    assert when(last) - when(first) < 4 + 1, run.report()


def test_waiters_share_the_connections_that_there_are(scene: Scene, crowded: Callable[[int], None]) -> None:
    """With more replicas than connections and a long migration, waiters take turns; otherwise some would give up."""
    crowded(6)
    scene.write({"002_gate.sql": f"CREATE TABLE b (); {Gate.PASS}"})
    with Gate(scene.database) as gate:
        runs = [scene.start(url=url_of(scene), DB_CONNECT_BACKOFF_MS=300)]
        gate.arrival()
        runs += [scene.start(url=url_of(scene), DB_CONNECT_BACKOFF_MS=300) for _ in range(8)]
        until(lambda: all(run.logs("lock.waiting") for run in runs[1:]), 28, "everybody to have looked")
        gate.open()
        outcomes = [told(run).outcome for run in runs]
    assert sorted(outcomes) == ["migrated", *["waited"] * 8]


@pytest.mark.thorough
@pytest.mark.case("B16")
def test_a_locked_ledger_and_then_the_lock_have_one_budget(scene: Scene) -> None:
    scene.write(GATED)
    with scene.database.connect() as other, scene.database.connect() as locking:
        other.execute(f"SELECT pg_advisory_lock({lock_key()})")
        locking.execute("BEGIN; LOCK TABLE schema_migrations")
        run = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=5000)
        until(lambda: len(run.logs("ledger.locked")) == 2, 15, "looks")
        locking.execute("COMMIT")
        assert run.wait() == 75
    first, last = run.logs("ledger.locked")[0], run.logs("lock.timeout")[0]
    assert when(last) - when(first) < 5 + 1, run.report()


@pytest.mark.case("B16")
def test_the_worst_of_each_step_one_after_the_other(scene: Scene, crowded: Callable[[int], None]) -> None:
    """No free connection, a locked ledger, a held lock, and an endless migration whose failure cannot be recorded."""
    attempts, connect, lock, migrate = 2, 2.0, 5.0, 3.0
    pauses = 0.3 * (attempts - 1)
    bound = attempts * connect + pauses + lock + migrate + MARGIN
    scene.write({"002_b.sql": "CREATE TABLE b (); SELECT pg_sleep(60)"})
    with scene.database.connect() as holding, scene.database.connect() as locking:
        holding.execute(f"SELECT pg_advisory_lock({lock_key()})")
        locking.execute("BEGIN; LOCK TABLE schema_migrations")
        began = time.monotonic()
        run = scene.start(
            url=url_of(scene),
            DB_CONNECT_ATTEMPTS=attempts,
            DB_CONNECT_TIMEOUT_MS=round(connect * 1000),
            DB_CONNECT_BACKOFF_MS=300,
            MIGRATION_LOCK_TIMEOUT_MS=round(lock * 1000),
            MIGRATION_TIMEOUT_MS=round(migrate * 1000),
        )
        run.until(lambda record: record["event"] == "database.retry")
        crowded(-1)
        run.until("ledger.locked")
        locking.execute("COMMIT")
        run.until("lock.waiting")
        holding.execute(f"SELECT pg_advisory_unlock({lock_key()})")
        run.until("lock.acquired")
        locking.execute("BEGIN; LOCK TABLE schema_migrations IN SHARE MODE")
        assert told(run).outcome == "failed", run.report()
        took = time.monotonic() - began
        locking.execute("ROLLBACK")
    assert took < bound, f"{took:.1f} s of {bound:.1f}\n{run.report()}"


# --- Somebody has locked the ledger's tables ------------------------------------------------------------


def named(record: Record, pid: int, ms: int) -> bool:
    """Tell whether an error says everything known about the session of `pid`, and what to type."""
    assert record["event"] == "lock.timeout"
    assert f"Failed to acquire migration lock after {ms}ms: the migration history is locked by " in record["message"]
    for part in (f"backend {pid} (postgres, a person's psql, idle in transaction, transaction open for", "LOCK TABLE"):
        assert part in record["message"], record
    assert f"SELECT pg_terminate_backend({pid})" in record["remedy"]
    return bool(record["blocker"] == pid)


@pytest.fixture
def person(scene: Scene) -> Iterator[psycopg.Connection]:
    """Return a session with a name, in an open transaction."""
    connection = scene.database.connect()
    connection.execute("SET application_name = 'a person''s psql'")
    connection.execute("BEGIN")
    yield connection
    connection.close()


@pytest.mark.case("B16")
def test_who_locks_the_ledger_is_named_when_the_time_is_over(scene: Scene, person: psycopg.Connection) -> None:
    person.execute("LOCK TABLE schema_migrations")
    pid = person.info.backend_pid
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    run = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=1500)
    assert run.wait() == 75
    assert named(only_error(run), pid, 1500)
    assert f"backend {pid} " in run.logs("ledger.locked")[0]["message"]
    begun = scene.start(MIGRATION_LOCK_TIMEOUT_MS=1500)
    outcome = told(begun)
    assert outcome.outcome == "failed"
    assert f"the migration history is locked by backend {pid} (" in outcome.error
    assert named(only_error(begun), pid, 1500)
    status = scene.start("status", MIGRATION_LOCK_TIMEOUT_MS=1500)
    assert status.wait() == 75
    assert named(only_error(status), pid, 1500)
    # Do what the message says.
    scene.database.execute("SELECT pg_terminate_backend(%s)", (pid,))
    scene.migrated()


@pytest.mark.thorough
@pytest.mark.case("B16")
@pytest.mark.parametrize(
    "statement",
    [
        "LOCK TABLE schema_migrations",
        "LOCK TABLE migration_lock",
        # Now the ledger can be read, but the lock cannot be taken.
        "LOCK TABLE migration_lock IN SHARE MODE",
    ],
)
def test_who_locks_the_ledger_while_we_wait_for_the_lock_is_named(
    scene: Scene, person: psycopg.Connection, statement: str
) -> None:
    pid = person.info.backend_pid
    scene.write(GATED)
    with scene.database.connect() as holding:
        holding.execute(f"SELECT pg_advisory_lock({lock_key()})")
        run = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=5000)
        run.until("lock.waiting")
        person.execute(statement)
        holding.execute(f"SELECT pg_advisory_unlock({lock_key()})")
        assert run.wait() == 75
    assert named(only_error(run), pid, 5000)
    assert f"backend {pid} " in run.logs("ledger.locked")[0]["message"]


def test_who_stands_in_line_for_the_ledger_and_behind_whom_is_named(scene: Scene, person: psycopg.Connection) -> None:
    person.execute("SELECT FROM schema_migrations")
    pid = person.info.backend_pid
    with scene.database.connect() as queued:
        queued.pgconn.send_query(b"SET application_name = 'a cleanup'; BEGIN; LOCK TABLE schema_migrations")
        queued.pgconn.flush()
        waits = "SELECT FROM pg_locks WHERE relation = 'schema_migrations'::regclass AND NOT granted"
        until(lambda: scene.database.rows(waits), 15, "somebody in line")
        run = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=1500)
        assert run.wait() == 75
        error = only_error(run)
        # The session at the front of the queue is the one in the way.
        assert f"is locked by backend {pid} (postgres, a person's psql, idle in transaction" in error["message"]
        assert f"and backend {queued.info.backend_pid} (postgres, a cleanup, active" in error["message"]
        assert "waiting for a lock itself" in error["message"]
        assert f"SELECT pg_terminate_backend({pid})" in error["remedy"]
        queued.pgconn.finish()


@pytest.mark.thorough
def test_a_prepared_transaction_that_locks_the_ledger_is_named(
    fresh_server: Callable[..., Server], migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    database = Database(fresh_server(16, settings={"max_prepared_transactions": 4}), "prepared")
    database.server.create_database(database.name)
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write({"001_a.sql": "CREATE TABLE a ()"})
    scene.migrated()
    database.execute("BEGIN; LOCK TABLE schema_migrations; PREPARE TRANSACTION 'of old'")
    run = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=1500)
    assert run.wait() == 75
    error = only_error(run)
    assert "the migration history is locked by prepared transaction 'of old' (postgres, prepared " in error["message"]
    assert "ROLLBACK PREPARED 'of old'" in error["remedy"]


# --- Few attempts and a locked ledger -------------------------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.case("B17")
@pytest.mark.parametrize(
    "env",
    [
        {"DB_CONNECT_ATTEMPTS": 1},
        {"DB_CONNECT_TIMEOUT_MS": 2000},
        {"DB_CONNECT_ATTEMPTS": 1, "DB_CONNECT_TIMEOUT_MS": 2000},
        {"DB_CONNECT_ATTEMPTS": 1, "DB_CONNECT_TIMEOUT_MS": 600},
    ],
    ids=lambda env: " ".join(f"{name}={value}" for name, value in env.items()),
)
def test_a_locked_ledger_is_waited_for_however_few_the_attempts(scene: Scene, env: dict[str, Any]) -> None:
    scene.write({"002_b.sql": "CREATE TABLE b ()"})
    with scene.database.connect() as locking:
        locking.execute("BEGIN; LOCK TABLE schema_migrations")
        run = scene.start(**env)
        until(lambda: len(run.logs("ledger.locked")) == 2 or not run.running, 15, "two looks")
        locking.execute("COMMIT")
        assert told(run).outcome == "migrated"
    assert not run.logs("database.retry"), run.report()
