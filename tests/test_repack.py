"""REPACK, new in PostgreSQL 19: which of its forms run outside a transaction, and what a crash in the middle leaves."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import psycopg
import pytest

from conftest import new_database
from entrypoint.migration.script.statements import advise
from kit.processes import until
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import ServerFactory, Servers
    from kit.databases import Database
    from kit.processes import Run

BASE = "CREATE TABLE t (a integer PRIMARY KEY, b integer);\nINSERT INTO t SELECT g, g FROM generate_series(1, 1000) g;"
ONLINE = "INSERT INTO t VALUES (2000, 2000);\nREPACK (CONCURRENTLY) t;\nINSERT INTO t VALUES (3000, 3000);"


@pytest.fixture
def pg19(servers_by_version: Servers, request: pytest.FixtureRequest) -> Iterator[Database]:
    """Return an empty database on version 19, whichever version the other tests run on."""
    with new_database(servers_by_version[19], request.node.name) as database:
        yield database


@pytest.fixture
def scene(pg19: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    """Return a database with the table `t`, and a pending `002_repack.sql`."""
    return ready(Scene(pg19, migrations_dir, run_entrypoint))


def ready(scene: Scene) -> Scene:
    scene.write({"001_base.sql": BASE})
    scene.migrate().ok()
    scene.write({"002_repack.sql": ONLINE})
    return scene


class Seen(NamedTuple):
    """What a REPACK (CONCURRENTLY) could have left behind, and what it should leave."""

    ledger: list[tuple[object, ...]]
    added: object
    """Rows added by the statements before and after it."""
    relations: list[tuple[object, ...]]
    """The table, its index, and anything it created next to them."""
    slots: object


def ledger(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT migration_number, status, error_message FROM schema_migrations ORDER BY 1")


def seen(database: Database) -> Seen:
    return Seen(
        ledger(database),
        database.one("SELECT count(*) FROM t WHERE a > 1000"),
        database.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname ~ '^t|repack' "
            "OR relname LIKE 'pg_temp%' ORDER BY 1"
        ),
        database.one("SELECT count(*) FROM pg_replication_slots"),
    )


def file_of_t(database: Database) -> object:
    return database.one("SELECT pg_relation_filenode('t')")


INTERRUPTED = "statement 2 of 3: REPACK (CONCURRENTLY) t"
TABLE: list[tuple[object, ...]] = [("t",), ("t_pkey",)]


FORMS = (
    "REPACK t",
    "REPACK (VERBOSE) t",
    "REPACK t USING INDEX t_pkey",
    "REPACK (CONCURRENTLY) t",
    "REPACK (CONCURRENTLY, VERBOSE) t USING INDEX t_pkey",
    "REPACK (CONCURRENTLY false) t",
    "REPACK (CONCURRENTLY 0) t",
    "REPACK (CONCURRENTLY 'on') t",
    "REPACK (CONCURRENTLY off, CONCURRENTLY) t",
    "REPACK (CONCURRENTLY, CONCURRENTLY off) t",
    "REPACK (ANALYZE) t",
    "REPACK (ANALYSE) t",
    "REPACK (ANALYZE) t (a)",
    "REPACK (ANALYZE off) t",
    "REPACK (VERBOSE, ANALYZE true) t",
    "REPACK",
    "REPACK (VERBOSE)",
    "REPACK USING INDEX",
    "REPACK (VERBOSE) USING INDEX",
    "REPACK /* all */ -- of them\n",
    "REPACK /* */ ( /* */ CONCURRENTLY /* */ ) t",
)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_taken_for_one_outside_a_transaction_where_the_server_refuses_it_inside(
    pg19: Database, form: str
) -> None:
    pg19.execute(BASE)
    refused = ""
    with pg19.connect() as connection:
        connection.execute("BEGIN")
        try:
            connection.execute(form)
        except psycopg.Error as error:
            refused = str(error.sqlstate)
    assert refused in ("", "25001")
    assert bool(refused) is bool(advise(form).outside)


@pytest.mark.parametrize("form", ["REPACK parted", 'REPACK ("concurrently") t'])
def test_what_only_the_server_recognises_it_refuses_and_the_message_says_what_to_do(scene: Scene, form: str) -> None:
    scene.database.execute("CREATE TABLE parted (a integer PRIMARY KEY) PARTITION BY RANGE (a)")
    scene.write({"002_repack.sql": f"INSERT INTO t VALUES (2000, 2000);\n{form};"})
    run = scene.start("migrate")
    assert run.wait() == 70
    assert "002_repack.sql:2" in run.stderr
    assert "put `-- entrypoint: no-transaction` at the top of the file" in run.stderr
    assert scene.database.one("SELECT count(*) FROM t WHERE a > 1000") == 0
    scene.write({"002_repack.sql": f"-- entrypoint: no-transaction\nINSERT INTO t VALUES (2000, 2000);\n{form};"})
    scene.migrate().ok()
    assert scene.database.one("SELECT count(*) FROM t WHERE a > 1000") == 1


def test_every_form_is_applied_without_a_directive(scene: Scene) -> None:
    scene.write(
        {
            "003_inside.sql": "INSERT INTO t VALUES (4000, 4000);\nREPACK t USING INDEX t_pkey;\nREPACK (VERBOSE) t;",
            "004_outside.sql": "REPACK (ANALYZE) t (a);\nREPACK (CONCURRENTLY, ANALYZE) t;\n"
            "REPACK USING INDEX;\nREPACK;",
        }
    )
    before = file_of_t(scene.database)
    scene.migrate().ok()
    assert seen(scene.database) == Seen([(number, "completed", None) for number in (1, 2, 3, 4)], 3, TABLE, 0)
    assert file_of_t(scene.database) != before


class Reached(NamedTuple):
    """A start in its last step: it has copied the table, and is waiting to swap in the copy."""

    run: Run
    pid: int
    worker: int
    holder: psycopg.Connection
    before: object


Reach: TypeAlias = "Callable[[Scene], Reached]"


@pytest.fixture
def reach() -> Iterator[Reach]:
    """Return a function that starts the program and waits until it gets there."""
    with contextlib.ExitStack() as stack:

        def start(scene: Scene) -> Reached:
            holder = stack.enter_context(scene.database.connect())
            holder.execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
            before = file_of_t(scene.database)
            run = scene.start("migrate")
            pid, worker = until(
                lambda: scene.database.rows(
                    "SELECT l.pid, a.pid FROM pg_locks l, pg_stat_activity a WHERE l.relation = 't'::regclass "
                    "AND l.mode = 'AccessExclusiveLock' AND NOT l.granted AND a.backend_type LIKE 'REPACK%'"
                ),
                what="REPACK to wait for its last lock",
            )[0]
            assert isinstance(pid, int)
            assert isinstance(worker, int)
            assert ledger(scene.database) == [(1, "completed", None), (2, "running", INTERRUPTED)]
            return Reached(run, pid, worker, holder, before)

        yield start


def assert_gone_on_with(scene: Scene, before: object) -> None:
    """Assert that each statement took effect once, and that nothing is left of the interrupted REPACK."""
    assert seen(scene.database) == Seen([(1, "completed", None), (2, "completed", None)], 2, TABLE, 0)
    assert file_of_t(scene.database) != before
    assert scene.database.one("SELECT (count(*), sum(b)) = (1002, 505500) FROM t")


def test_its_progress_has_its_name(scene: Scene, reach: Reach) -> None:
    run, _, _, holder, before = reach(scene)
    record = run.until("migration.progress")
    assert (record["command"], record["relation"], record["phase"]) == ("REPACK", "t", "catch-up")
    holder.close()
    run.ok()
    assert_gone_on_with(scene, before)


def test_killed_in_the_middle_it_leaves_nothing_and_is_gone_on_with(scene: Scene, reach: Reach) -> None:
    run, pid, _, holder, before = reach(scene)
    run.kill(signal.SIGKILL)
    gone = f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid} OR backend_type LIKE 'REPACK%'"
    until(lambda: scene.database.one(gone), what="the sessions of what was killed to end")
    assert seen(scene.database) == Seen([(1, "completed", None), (2, "running", INTERRUPTED)], 1, TABLE, 0)
    assert file_of_t(scene.database) == before
    holder.close()
    assert "migration.resumed" in scene.migrate().ok().events()
    assert_gone_on_with(scene, before)


@pytest.mark.parametrize("whom", ["its session", "its worker"])
def test_ended_by_an_operator_it_is_stopped(scene: Scene, reach: Reach, whom: str) -> None:
    run, pid, worker, holder, before = reach(scene)
    scene.database.execute(f"SELECT pg_terminate_backend({pid if whom == 'its session' else worker})")
    run.until("migration.stopped")
    assert run.wait() == 70
    holder.close()
    scene.migrate().ok()
    assert_gone_on_with(scene, before)


def test_of_a_crash_of_the_server_nothing_is_left(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run], reach: Reach
) -> None:
    server = fresh_server(19)
    with new_database(server, "crash") as database:
        scene = ready(Scene(database, migrations_dir, run_entrypoint))
        run, _, _, holder, before = reach(scene)
        server.stop("immediate")
        holder.close()
        run.kill(signal.SIGKILL)
        server.start()
        assert seen(database) == Seen([(1, "completed", None), (2, "running", INTERRUPTED)], 1, TABLE, 0)
        assert file_of_t(database) == before
        assert "migration.resumed" in scene.migrate().ok().events()
        assert_gone_on_with(scene, before)


def test_its_last_lock_is_waited_for_no_longer_than_any_other(scene: Scene) -> None:
    with scene.database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
        run = scene.start("migrate", MIGRATION_DDL_LOCK_TIMEOUT_MS=300)
        run.until("migration.retry")
    run.ok()
    assert_gone_on_with(scene, None)
