"""What can be seen while a migration runs: its progress, who blocks it, and how long it has waited altogether."""

from __future__ import annotations

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from conftest import VERSIONS
from entrypoint import logs
from entrypoint.database.session_state import OURS_WITH_PATH
from entrypoint.migration.ledger import reading
from entrypoint.migration.lock.contender import Contender
from entrypoint.migration.observe import blockers, progress
from entrypoint.migration.observe.board import Board
from kit.databases import Database
from kit.processes import until
from scene import Gate, Scene, errors, only_error, token_of, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg import Connection

    from conftest import ServerFactory
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.reading import Look
    from entrypoint.migration.observe.blockers import Wait
    from kit.processes import Run

ALTER = {"001_alter.sql": "ALTER TABLE busy ADD COLUMN b integer"}
QUEUED = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = '{}'::regclass AND mode = '{}'"

# A table of a few pages, and a function that stops at one of its rows while the gate is closed.
SLOW_TABLE = """
    CREATE TABLE big (id integer, filler text);
    INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series(1, 200) i;
    CREATE FUNCTION stop(i integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN IF i = 100 THEN PERFORM pg_advisory_xact_lock_shared(4711); END IF; RETURN i; END $$;
"""


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@contextlib.contextmanager
def at_work(database: Database, sql: str) -> Iterator[int]:
    """Run SQL on a separate connection while the caller looks; yield its backend."""
    with contextlib.closing(database.connect()) as connection, ThreadPoolExecutor(1) as threads:

        def work() -> None:
            with contextlib.suppress(psycopg.Error):
                for statement in sql.split(";"):
                    connection.execute(statement.encode())

        running = threads.submit(work)
        try:
            yield connection.info.backend_pid
        finally:
            database.rows("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
            running.result(20)


@contextlib.contextmanager
def in_the_way(scene: Scene, **parameters: str) -> Iterator[Connection[tuple[Any, ...]]]:
    """Write `ALTER`, and yield a session whose open transaction has read the table. `parameters` are libpq's."""
    scene.database.execute("CREATE TABLE busy (a integer)")
    scene.write(ALTER)
    with contextlib.closing(scene.database.connect(**parameters)) as connection:
        connection.execute("BEGIN; SELECT FROM busy")
        yield connection


def asked(connection: Connection[tuple[Any, ...]], query: str) -> list[tuple[Any, ...]]:
    """Return the answer to a query that is sent as the watcher sends it."""
    with connection.transaction():
        connection.execute(OURS_WITH_PATH.encode())
        return connection.execute(query.encode()).fetchall()


def texts(rows: list[tuple[Any, ...]]) -> list[tuple[str | None, ...]]:
    """Return rows as the program's own sessions read them."""

    def text(value: object) -> str | None:
        if isinstance(value, bool):
            return "t" if value else "f"
        if isinstance(value, dict):
            return json.dumps(value)
        return None if value is None else str(value)

    return [tuple(map(text, row)) for row in rows]


# --- Progress -------------------------------------------------------------------------------------------

COMMANDS = {
    "CREATE INDEX": ("CREATE INDEX ON big (stop(id))", "building index", True),
    "CREATE INDEX CONCURRENTLY": ("CREATE INDEX CONCURRENTLY ON big (id)", "waiting for writers before build", False),
    "VACUUM": ("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; VACUUM big", "scanning heap", True),
    "ANALYZE": ("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1; ANALYZE big", "acquiring sample rows", True),
    "VACUUM FULL": ("VACUUM FULL big", "rebuilding index", False),
    "COPY FROM": ("COPY big FROM '{file}'", None, True),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_postgresql_knows_of_a_statement(any_database: Database, command: str, tmp_path: Path) -> None:
    sql, phase, counted = COMMANDS[command]
    any_database.execute(SLOW_TABLE)
    if command == "VACUUM FULL":
        any_database.execute("CREATE INDEX ON big (stop(id))")
    if command == "COPY FROM":
        # The server must be able to read the file, so it is in the server's directory.
        directory = any_database.one("SHOW data_directory")
        any_database.execute(f"COPY big TO '{directory}/{any_database.name}.copy'")
        any_database.execute("ALTER TABLE big ADD CHECK (stop(id) > 0) NOT VALID")
        sql = sql.format(file=f"{directory}/{any_database.name}.copy")
    with Gate(any_database) as gate, any_database.connect() as writer, any_database.connect() as eye:
        if command == "CREATE INDEX CONCURRENTLY":
            writer.execute("BEGIN; DELETE FROM big WHERE id = 1")
        with at_work(any_database, sql) as backend_pid:
            query = progress.query(backend_pid, eye.info.server_version)

            def look() -> progress.Progress | None:
                seen = progress.read(texts(asked(eye, query)))
                there = seen is not None and (phase is None or phase in (seen.phase or ""))
                known = seen is not None and seen.percent is not None
                return seen if there and (known or not counted) else None

            found = until(look, 20, f"{phase} of {command}")
            assert found is not None
            assert (found.command, found.relation) == (command, "big")
            if counted:
                assert found.percent is not None
                assert 0 <= found.percent <= 100  # 100 while the last block is scanned.
            else:
                assert found.percent is None
            gate.open()


def test_progress_is_in_the_log_and_in_the_row_and_waiters_tell_it(scene: Scene) -> None:
    scene.database.execute(SLOW_TABLE)
    scene.write({"001_index.sql": "SELECT 1;\nCREATE INDEX ON big (stop(id));"})
    with Gate(scene.database) as gate:
        # It reports after half of the lock timeout; the gate itself is also a lock.
        holder = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=5000, MIGRATION_TIMEOUT_MS=60000)
        token = token_of(holder)
        gate.arrival()
        record = holder.until("migration.progress")
        assert record["file"] == "001_index.sql"
        assert (record["statement"], record["statements"]) == (1, 2)
        # PostgreSQL holds back the first statement's small result, but it does report what it is doing.
        assert "statement 1 or later of 2, for " in record["message"]
        assert (record["command"], record["relation"]) == ("CREATE INDEX", "big")
        assert "scanning table" in record["phase"]
        assert 0 < record["percent"] < 100
        assert f"{record['percent']} %" in record["message"]
        row = until(lambda: scene.lock() if scene.lock()["progress_detail"] else None, 5, "the detail in the row")
        assert row is not None
        assert row["progress_detail"]["token"] == token
        assert row["progress_detail"]["percent"] == record["percent"]
        waiter = scene.start()
        waiting = waiter.until(lambda record: record.get("event") == "lock.waiting" and "phase" in record)
        assert waiting["file"] == "001_index.sql"
        assert waiting["statement"] == 1
        assert waiting["percent"] == record["percent"]
        assert "statement 1 of 2 or later, for " in waiting["message"]
        assert "scanning table" in waiting["message"]
        gate.open()
        assert told(holder).outcome == "migrated"
        assert told(waiter).outcome == "waited"
    assert scene.lock_is_free()


def test_a_detail_that_another_holder_left_is_not_told(scene: Scene) -> None:
    """A replica of an earlier release does not know the column, and leaves the old value in it."""
    scene.write(ALTER | {"001_alter.sql": "SELECT 1"})
    scene.migrated()
    scene.database.execute(
        "UPDATE migration_lock SET locked_at = now(), locked_by = 'earlier', token = 'new', progress_statement = 1,"
        ' progress_statements = 2, progress_migration = \'x.sql\', progress_detail = \'{"token": "old", "percent": 5}\''
    )
    with scene.database.connect() as connection:
        place = cast("Place", _Place())
        sql = reading._lock_row_sql(place)
        row = reading._lock_row(texts(connection.execute(sql.encode()).fetchall())[0])
        assert row.detail == {}
        connection.execute("UPDATE migration_lock SET token = 'old'")
        row = reading._lock_row(texts(connection.execute(sql.encode()).fetchall())[0])
        assert row.detail == {"percent": 5}


class _Place:
    """As much of a place as the row's query needs."""

    lock = dict.fromkeys(
        ("locked_at", "token", "progress_migration", "progress_statement", "progress_statements", "progress_detail"), ""
    )

    def table(self, name: str) -> str:
        return name


@pytest.mark.thorough
def test_an_earlier_release_of_ours_is_upgraded_in_place(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT 1"})
    scene.migrated()
    scene.database.execute("ALTER TABLE migration_lock DROP COLUMN progress_detail")
    run = scene.start()
    assert told(run).outcome == "up_to_date"
    assert run.logs("ledger.created")
    assert scene.lock()["progress_detail"] is None
    assert scene.lock_is_free()


def test_a_waiter_tells_a_change_at_once_and_the_rest_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told_files: list[object] = []
    monkeypatch.setattr(logs, "event", lambda *_args, **fields: told_files.append(fields["file"]))
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    board = Board(3)
    assignment = cast(
        "Assignment",
        type(
            "A", (), dict.fromkeys(("lock", "apply", "role", "clocks", "target", "connect_timeout")) | {"board": board}
        ),
    )
    contender = Contender(assignment, cast("Any", None), cast("Any", None))

    def look(file: str, holder: str = "t") -> None:
        row = reading.LockRow(True, None, 1.0, "pod-1", 7, holder, file, None, None, {})  # noqa: FBT003
        contender._tell_waiting(
            cast("Look", type("K", (), {"lock": row})),
            cast("Plan", type("P", (), {"pending": (), "current": None})),
            more=False,
        )

    look("001_a.sql")
    look("001_a.sql")
    assert told_files == ["001_a.sql"], "nothing new"
    look("002_b.sql")
    assert told_files == ["001_a.sql", "002_b.sql"], "another file, at once"
    look("002_b.sql", holder="u")
    assert len(told_files) == 3, "another holder, at once"
    clock[0] += 4.9
    look("002_b.sql", holder="u")
    assert len(told_files) == 3
    clock[0] += 0.2
    look("002_b.sql", holder="u")
    assert len(told_files) == 4, "the same once more, after 5 s"
    assert "pod-1" in board.waiting_for


# --- Who blocks it --------------------------------------------------------------------------------------


def test_an_idle_session_is_told_as_such(scene: Scene) -> None:
    """It holds a session-level lock, and has no open transaction whose age we could report."""
    scene.write({"001_x.sql": "SELECT pg_advisory_lock(815)"})
    with scene.database.connect(application_name="forgotten psql") as other:
        blocker = other.info.backend_pid
        other.execute("SELECT 'secret', pg_advisory_lock(815)")
        run = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=2000)
        blocked = run.until("migration.blocked")
        assert run.logs("migration.retry") == [], "told before the time-out ends the attempt"
        other.execute("SELECT pg_advisory_unlock(815)")
        assert told(run).outcome == "migrated"
    assert blocked["blocker"] == blocker
    assert blocked["lock_target"] == "advisory"
    assert "blocker_transaction_s" not in blocked
    for part in ("forgotten psql", "idle, no transaction open", "its last statement: SELECT ?, pg_advisory_lock(?)"):
        assert part in blocked["message"]
    assert "None" not in blocked["message"]
    assert f"pg_terminate_backend({blocker})" in blocked["remedy"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "version", [pytest.param(version, marks=() if version == 18 else pytest.mark.thorough) for version in VERSIONS]
)
def test_a_prepared_transaction_is_told_by_its_name(
    version: int, fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    database = Database(fresh_server(version, settings={"max_prepared_transactions": 4}), "prepared")
    database.server.create_database(database.name)
    database.execute("CREATE TABLE busy (a integer); CREATE TABLE other (a integer)")
    database.execute("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'not this one'")
    database.execute("BEGIN; INSERT INTO busy VALUES (1); PREPARE TRANSACTION 'order ''1'''")
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write(ALTER)
    run = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=1000)
    blocked = run.until("migration.blocked")
    retry = run.until("migration.retry")
    database.execute("COMMIT PREPARED 'order ''1'''")
    assert told(run).outcome == "migrated"
    assert {record["blocker_prepared"] for record in run.logs("migration.blocked")} == {"order '1'"}
    assert "blocker" not in blocked
    assert "prepared transaction" in blocked["message"]
    assert "ROLLBACK PREPARED 'order ''1'''" in blocked["remedy"]
    assert retry["blocker_prepared"] == "order '1'"
    database.execute("ROLLBACK PREPARED 'not this one'")


@pytest.mark.parametrize(
    ("hold", "phase"),
    [
        ("BEGIN; INSERT INTO busy VALUES (1)", "waiting for writers before build"),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class", "waiting for old snapshots"),
    ],
    ids=["a writer", "an old snapshot"],
)
def test_a_concurrent_build_tells_whom_it_waits_for(scene: Scene, hold: str, phase: str) -> None:
    """It has no lock timeout: it blocks nobody, so it waits as long as it takes."""
    scene.database.execute("CREATE TABLE busy (a integer)")
    scene.write({"001_index.sql": "CREATE INDEX CONCURRENTLY i ON busy (a)"})
    with scene.database.connect(application_name="nightly report") as other:
        blocker = other.info.backend_pid
        other.execute(hold)
        run = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=400)
        blocked = run.until("migration.blocked")
        record = run.until("migration.progress")
        assert (record["command"], record["phase"]) == ("CREATE INDEX CONCURRENTLY", phase)
        assert "percent" not in record
        other.execute("COMMIT")
        assert told(run).outcome == "migrated"
    assert blocked["blocker"] == blocker
    assert blocked["lock_target"] == "virtualxid"
    assert "nightly report" in blocked["message"]
    assert run.logs("migration.retry") == [], "neither the lock time-out nor the sum of the waits ends it"


def test_a_blocker_with_parallel_workers_is_told_once(scene: Scene) -> None:
    database = scene.database
    database.execute("CREATE TABLE busy AS SELECT generate_series(1, 1000) AS a")
    eager = "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;"
    with at_work(database, f"{eager} SELECT count(*) FROM busy WHERE pg_sleep(60) IS NOT NULL") as leader:
        until(lambda: database.one(f"SELECT count(*) FROM pg_stat_activity WHERE leader_pid = {leader}"), 10, "workers")
        with at_work(database, "ALTER TABLE busy ADD COLUMN b integer") as pid:
            raw = f"SELECT pg_blocking_pids({pid})"
            until(lambda: len(database.one(raw)) > 1, 10, "the same leader several times")
            assert set(database.one(raw)) == {leader}
            (found,) = blockers.read_blockers(texts(database.rows(blockers.blocking(pid))))
            assert found.pid == leader


def test_what_we_may_not_see_is_told_as_that(database: Database) -> None:
    role = f"poor_{database.name}"[:60]
    database.execute(f"CREATE TABLE busy (); CREATE ROLE {role} LOGIN")
    with database.connect() as other, at_work_behind(database, other) as pid, database.connect(user=role) as eye:
        (found,) = blockers.read_blockers(texts(asked(eye, blockers.blocking(pid))))
        assert found.pid == other.info.backend_pid
        assert "this user may not see what it is doing" in found.words()
        assert "None" not in found.words()
    database.execute(f"DROP ROLE {role}")


@contextlib.contextmanager
def at_work_behind(database: Database, other: Connection[Any]) -> Iterator[int]:
    """Let somebody wait for a table that the `other` connection has locked; yield the waiting backend."""
    other.execute("BEGIN; LOCK TABLE busy")
    with at_work(database, "SELECT 1 FROM busy") as pid:
        until(lambda: database.rows(QUEUED.format("busy", "AccessShareLock")), 10, "somebody in the queue")
        yield pid


# --- The sum of all waits -------------------------------------------------------------------------------


def queued_for(database: Database, table: str, seconds: float = 0) -> bool:
    """Tell whether somebody has waited for a table for at least `seconds`."""
    return bool(
        database.rows(
            "SELECT FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
            " AND clock_timestamp() - waitstart > %s * interval '1 second'",
            [table, seconds],
        )
    )


def test_waits_that_are_short_each_and_long_together_end_an_attempt(scene: Scene) -> None:
    """The lock timeout applies to each lock. While it queues for the next table, others wait for the first one."""
    database = scene.database
    database.execute("CREATE TABLE one (); CREATE TABLE two ()")
    scene.write({"001_both.sql": "ALTER TABLE one ADD COLUMN b integer;\nALTER TABLE two ADD COLUMN b integer;"})
    with database.connect() as first, database.connect() as second:
        first.execute("BEGIN; SELECT FROM one")
        second.execute("BEGIN; SELECT FROM two")
        blocker = second.info.backend_pid
        run = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=4000)
        run.until("migration.blocked")
        until(lambda: queued_for(database, "one", 2.5), 10, "a long wait for the first table")
        first.execute("COMMIT")
        until(lambda: queued_for(database, "two"), 10, "the queue for the second table")
        retry = run.until("migration.retry")
        second.execute("COMMIT")
        assert told(run).outcome == "migrated"
    assert retry["sqlstate"] == "55P03"
    assert 4000 < retry["lock_wait_ms"] < 6000
    assert "4000 ms of MIGRATION_DDL_LOCK_TIMEOUT_MS" in retry["message"]
    assert retry["blocker"] == blocker
    assert errors(run) == [], "nobody takes it for an operator's cancel"
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.thorough
def test_a_file_with_a_lock_timeout_of_its_own_waits_as_it_likes(scene: Scene) -> None:
    database = scene.database
    database.execute("CREATE TABLE one (); CREATE TABLE two ()")
    alter = "ALTER TABLE one ADD COLUMN b integer;\nALTER TABLE two ADD COLUMN b integer;"
    scene.write({"001_both.sql": f"SET LOCAL lock_timeout = '1min';\n{alter}"})
    with database.connect() as first, database.connect() as second:
        first.execute("BEGIN; SELECT FROM one")
        second.execute("BEGIN; SELECT FROM two")
        run = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=500)
        until(lambda: queued_for(database, "one", 1.0), 10, "a long wait for the first table")
        first.execute("COMMIT")
        until(lambda: queued_for(database, "two", 1.0), 10, "a long wait for the second table")
        second.execute("COMMIT")
        assert told(run).outcome == "migrated"
    assert run.logs("migration.retry") == []


IN_THE_WAY = {
    "it stands in line for the table": ("SELECT 1", "LOCK TABLE busy IN SHARE MODE", True),
    "it reads": ("SELECT 1", "SELECT FROM busy", False),
    "it writes rows elsewhere": ("INSERT INTO free VALUES (1)", "SELECT FROM busy", False),
    "it keeps others out of a table": ("LOCK TABLE free", "SELECT FROM busy", True),
    "it keeps writers out of a table": ("CREATE INDEX ON free (a)", "SELECT FROM busy", True),
    "it has made the table itself": ("CREATE TABLE mine (); LOCK TABLE mine", "SELECT FROM busy", False),
    "a row, while it keeps others out": ("LOCK TABLE free", "UPDATE rows SET a = 2", True),
    "a row": ("SELECT 1", "UPDATE rows SET a = 2", False),
    "an advisory lock": ("SELECT 1", "SELECT pg_advisory_lock(815)", False),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", IN_THE_WAY)
def test_a_wait_counts_only_if_others_wait_behind_it(database: Database, case: str) -> None:
    """A long data migration that sometimes waits for other sessions' rows must not be restarted again and again."""
    before, then, expected = IN_THE_WAY[case]
    database.execute("CREATE TABLE busy (a int); CREATE TABLE free (a int); CREATE TABLE rows AS SELECT 1 AS a")
    with database.connect() as other, database.connect() as eye:
        other.execute("BEGIN; LOCK TABLE busy; UPDATE rows SET a = 3; SELECT pg_advisory_lock(815)")
        with at_work(database, f"BEGIN; {before}; {then}") as pid:
            query = blockers.waiting(pid, eye.info.server_version)

            def look() -> Wait | None:
                return blockers.read_wait(texts(asked(eye, query)))

            found = until(look, 10, "the wait")
            assert found is not None
            assert found.in_the_way is expected
            again = look()
            assert again is not None
            assert again.began == found.began, "it is the same wait"
            assert again.seconds >= found.seconds


def test_the_cancel_hits_that_wait_and_no_other(database: Database) -> None:
    database.execute("CREATE TABLE busy (); CREATE TABLE next ()")
    with database.connect() as first, database.connect() as second, database.connect() as eye:
        first.execute("BEGIN; LOCK TABLE busy")
        second.execute("BEGIN; LOCK TABLE next")
        with at_work(database, "BEGIN; SELECT FROM busy; SELECT FROM next") as pid:
            query = blockers.waiting(pid, eye.info.server_version)
            wait = until(lambda: blockers.read_wait(texts(asked(eye, query))), 10, "the wait")
            assert wait is not None
            first.execute("COMMIT")
            until(lambda: queued_for(database, "next"), 10, "the next wait")
            assert asked(eye, blockers.cancel(pid, wait)) == [], "that wait is over"
            assert queued_for(database, "next")
            later = until(lambda: blockers.read_wait(texts(asked(eye, query))), 10, "the wait")
            assert later is not None
            assert asked(eye, blockers.cancel(pid, later)) == [(True,)]
            until(lambda: not queued_for(database, "next"), 10, "the end of the wait")


# --- Schema changes under traffic -----------------------------------------------------------------------


def test_between_two_attempts_the_queue_drains(scene: Scene) -> None:
    """A reader that queued behind the migration gets through, even though the blocking transaction stays open."""
    database = scene.database
    database.execute("CREATE TABLE busy (a integer)")
    scene.write(ALTER)
    with database.connect() as slow, database.connect() as reader, ThreadPoolExecutor(1) as threads:
        slow.execute("BEGIN; SELECT FROM busy")
        run = scene.start(MIGRATION_DDL_LOCK_TIMEOUT_MS=1500)
        for _ in range(2):
            until(lambda: queued_for(database, "busy"), 20, "the migration in the queue")
            read = threads.submit(reader.execute, "SELECT FROM busy")
            behind = QUEUED.format("busy", "AccessShareLock")
            until(lambda: database.rows(behind), 20, "the reader behind it")  # noqa: B023
            read.result(30)
            assert slow.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
            assert scene.ledger() == [], "the migration is still pending"
        assert run.running
        slow.execute("COMMIT")
        assert told(run).outcome == "migrated"
    assert len(run.logs("migration.retry")) >= 2


def test_every_attempt_has_the_same_patience_and_the_pauses_grow(scene: Scene) -> None:
    scene.database.execute("CREATE TABLE busy (a integer)")
    patience = "DO $$ BEGIN RAISE NOTICE 'patience %', current_setting('lock_timeout'); END $$;\n"
    scene.write({"001_alter.sql": patience + ALTER["001_alter.sql"]})
    with scene.database.connect(application_name="nightly report") as other:
        blocker = other.info.backend_pid
        other.execute("BEGIN; SELECT FROM busy")
        run = scene.migrate(MIGRATION_DDL_LOCK_TIMEOUT_MS=300, MIGRATION_TIMEOUT_MS=6000)
    assert run.code == 70
    error = only_error(run)
    assert error["event"] == "migration.timeout"
    assert "waited behind backend" in error["message"]
    assert "nightly report" in error["message"]
    retries = run.logs("migration.retry")
    attempts = [record for record in run.logs("migration.notice") if "patience" in record["message"]]
    assert len(attempts) >= len(retries) >= 3
    assert {re.findall(r"patience (\w+)", record["message"])[0] for record in attempts} == {"300ms"}
    assert [record["attempt"] for record in retries] == list(range(1, len(retries) + 1))
    # The last one may be cut short by the end of the time.
    for number, record in enumerate(retries[:-1]):
        longest = min(500 * 2**number, 10_000)
        assert longest / 2 <= record["pause_ms"] <= longest
    assert {record.get("blocker") for record in retries} - {None} == {blocker}
    assert scene.ledger() == []


@pytest.mark.thorough
def test_pauses_are_not_in_step(scene: Scene) -> None:
    """The pauses of two replicas differ, or they would collide again and again. So do one replica's in two starts."""
    pauses = set()
    with in_the_way(scene):
        for _ in range(3):
            run = scene.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=50)
            pauses.add(run.until("migration.retry")["pause_ms"])
            run.terminate()
            run.wait()
    assert len(pauses) > 1


def test_an_operators_cancel_during_a_wait_is_still_an_operators(scene: Scene) -> None:
    with in_the_way(scene):
        run = scene.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=10000)
        run.until("migration.blocked")
        ((pid,),) = scene.database.rows(QUEUED.format("busy", "AccessExclusiveLock"))
        scene.database.rows("SELECT pg_cancel_backend(%s)", [pid])
        assert run.wait() == 70
    assert only_error(run)["event"] == "migration.stopped"
    assert run.logs("migration.retry") == []


def test_all_who_look_say_how_to_let_the_holder_through(scene: Scene) -> None:
    """Stopping the holder does not help: the next one waits for the same session."""
    with in_the_way(scene, application_name="report") as other:
        ends = f"SELECT pg_terminate_backend({other.info.backend_pid})"
        leader = scene.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=20000)
        leader.until("migration.blocked")
        until(lambda: (scene.lock()["progress_detail"] or {}).get("blocked_by"), 15, "who blocks it")
        who = f"waiting for a lock held by backend {other.info.backend_pid} (postgres, report, idle in transaction, "
        waiter = scene.start("migrate", MIGRATION_LOCK_TIMEOUT_MS=3000)
        seen = waiter.until("lock.waiting")
        unlock = scene.start("unlock")
        assert unlock.wait() == 75
        status = scene.start("status").ok().stdout
        assert waiter.wait() == 75
        for text, remedy in (
            (seen["message"], seen["remedy"]),
            (unlock.stdout, unlock.logs()[-1]["remedy"]),
            (status, status),
            (only_error(waiter)["message"], only_error(waiter)["remedy"]),
        ):
            assert who in " ".join(str(text).split()), text
            assert ends in str(remedy), remedy
        scene.database.execute(ends)
        assert leader.wait() == 0


def test_a_wait_of_several_attempts_is_called_a_wait_and_has_its_total(scene: Scene) -> None:
    with in_the_way(scene) as other:
        run = scene.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=4000)
        told = run.until(
            lambda record: record.get("event") == "migration.progress" and "in all" in str(record["message"]),
            timeout=40,
        )
        assert re.fullmatch(
            r"waiting for a lock in 001_alter\.sql, statement 1 of 1, for \d s in this attempt, \d+ s in all",
            str(told["message"]),
        )
        other.execute("COMMIT")
    run.ok()
