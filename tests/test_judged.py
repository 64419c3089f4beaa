"""A failure is judged only once the facts are known: whatever PostgreSQL reports, what a file committed is reported."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from conftest import missing
from entrypoint.database.target import target
from entrypoint.deadline import Deadline
from entrypoint.migration.apply.doubt import settle
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.finding import find
from faults.machinery import commits_wait
from kit.databases import Database
from kit.pooler import executable, pooler
from kit.processes import until
from scene import Gate, Scene, blind, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from kit.processes import Run

LEFT = "part of it was committed"


def hidden(statements: str) -> str:
    """Return a file with `statements` that the parser and the scanner take for part of a string.

    The server reads strings differently and runs them; the program in `scene` is blind to the difference.
    """
    return f"INSERT INTO effects VALUES (1);\nSELECT '\\''; {statements}; SELECT ' AS a -- ';\n"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    database.execute("CREATE TABLE effects (i integer)")
    return blind(Scene(database, migrations_dir, run_entrypoint))


def effects(scene: Scene) -> int:
    count = scene.database.one("SELECT count(*) FROM effects")
    assert isinstance(count, int)
    return count


RAISE_40001 = "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$"


@pytest.mark.sampled(6)
@pytest.mark.case("A5")
@pytest.mark.case("A6")
@pytest.mark.case("A17")
@pytest.mark.parametrize(
    ("statements", "error"),
    [
        ("COMMIT; SELECT 1/0", "22012"),
        (f"COMMIT; {RAISE_40001}", "40001"),
        ("COMMIT AND CHAIN; SELECT 1/0", "22012"),
        ("COMMIT; BEGIN; SELECT 1/0", "22012"),
        ("ROLLBACK; INSERT INTO effects VALUES (2); COMMIT; SELECT 1/0", "22012"),
        (f"ROLLBACK; BEGIN; INSERT INTO effects VALUES (2); END; {RAISE_40001}", "40001"),
    ],
)
def test_what_is_committed_is_told_and_not_tried_again(scene: Scene, statements: str, error: str) -> None:
    scene.write({"001_x.sql": hidden(statements), "002_last.sql": "CREATE TABLE last ()"})
    run = scene.migrate()
    assert run.code == 70, run.report()
    told = only_error(run)
    assert told["sqlstate"] == error
    assert LEFT in told["message"], told
    assert LEFT in told["report"], told
    assert "rolled back" not in told["message"] + told["remedy"]
    assert not run.logs("migration.retry")
    assert effects(scene) == 1
    assert scene.ledger() == [(1, "failed")]
    assert LEFT in str(scene.database.one("SELECT error_message FROM schema_migrations"))
    assert not scene.database.exists("last")
    # Another replica does not retry it either.
    assert only_error(scene.migrate())["event"] == "migration.held_back"
    assert effects(scene) == 1


@pytest.mark.sampled(3)
@pytest.mark.case("A5")
@pytest.mark.parametrize("statements", ["COMMIT; SELECT 1/0", f"COMMIT; {RAISE_40001}", "COMMIT", "COMMIT; BEGIN"])
def test_a_statement_that_runs_in_a_transaction_of_its_own_and_ends_that(scene: Scene, statements: str) -> None:
    """The file runs outside a transaction."""
    says = "INSERT INTO effects SELECT 1 WHERE '\\'' <> '';"
    scene.write({"001_x.sql": f"-- entrypoint: no-transaction\n{says} {statements}; SELECT 1 /* ' */;\n"})
    run = scene.migrate()
    assert run.code == 70, run.report()
    assert LEFT in only_error(run)["message"]
    assert not run.logs("migration.retry")
    assert effects(scene) == 1
    assert scene.ledger() == [(1, "failed")]


@pytest.mark.case("A5")
def test_what_is_rolled_back_by_the_file_itself_is_tried_again(scene: Scene) -> None:
    """`ROLLBACK` commits nothing."""
    scene.write({"001_x.sql": hidden(f"ROLLBACK; {RAISE_40001}")})
    run = scene.migrate(MIGRATION_TIMEOUT_MS=2500)
    assert run.logs("migration.retry"), run.report()
    assert LEFT not in run.stderr
    assert effects(scene) == 0


@pytest.mark.case("A6")
@pytest.mark.parametrize(
    "statements", ["COMMIT; SELECT 1/0", "ROLLBACK; INSERT INTO effects VALUES (2); COMMIT; SELECT 1/0"]
)
def test_a_reverse_file_that_commits_and_fails(scene: Scene, statements: str) -> None:
    scene.write({"001_x.sql": "CREATE TABLE x ()"})
    scene.migrated()
    folder = scene.migrations / "rollback"
    folder.mkdir()
    (folder / "001_x.sql").write_text(hidden(statements))
    run = scene.start("rollback", "--to", "0", "--yes")
    assert run.wait() == 70, run.report()
    told = only_error(run)
    assert LEFT in told["message"]
    assert "migration 1 is still applied" in told["message"]
    assert "rolled back" not in told["message"] + told["remedy"]
    assert effects(scene) == 1
    assert scene.ledger() == [(1, "completed")]


@pytest.mark.thorough
@pytest.mark.case("A5")
def test_through_a_pooler_another_backend_may_answer(scene: Scene) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    with pooler(scene.database.server, pool_size=3) as port:
        scene.write({"001_x.sql": hidden(f"COMMIT; {RAISE_40001}")})
        run = scene.migrate(url=scene.database.url_at(port))
        assert run.code == 70, run.report()
        assert LEFT in only_error(run)["message"]
        assert effects(scene) == 1


@pytest.mark.case("A5")
def test_a_connection_that_ends_behind_a_hidden_commit(scene: Scene) -> None:
    """The command tags never arrive; the guard's session shows that the transaction id is still ours."""
    scene.write({"001_x.sql": hidden("COMMIT; SELECT pg_advisory_xact_lock(4711)")})
    with scene.database.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(4711)")
        run = scene.start("migrate")
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        (pid,) = until(lambda: scene.database.rows(waiting), 15, "the file at the gate")[0]
        scene.database.execute(f"SELECT pg_terminate_backend({pid})")
        assert run.wait() == 70, run.report()
    assert LEFT in only_error(run)["message"]
    assert effects(scene) == 1
    assert scene.ledger() == [(1, "failed")]


@pytest.mark.case("A5")
def test_a_time_out_behind_a_hidden_commit(scene: Scene) -> None:
    scene.write({"001_x.sql": hidden("COMMIT; SELECT pg_sleep(60)")})
    run = scene.migrate(MIGRATION_TIMEOUT_MS=2000)
    assert run.code == 70, run.report()
    assert LEFT in only_error(run)["message"]
    assert scene.ledger() == [(1, "failed")]


# --- A commit in doubt ----------------------------------------------------------------------------------

GOOD = {"001_good.sql": "CREATE TABLE good ()"}


@pytest.mark.case("A16")
def test_after_a_crash_somebody_elses_commit_is_not_taken_for_ours(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """If a transaction never reached the disk, the server gives its id to a later one."""
    server = fresh_server(settings={"synchronous_commit": "off", "wal_writer_delay": "10s"})
    server.create_database("crash")
    database = Database(server, "crash")
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write(GOOD)
    scene.migrated()
    database.execute("CREATE TABLE others (i integer)")
    database.execute("CHECKPOINT")
    address = target(database.url, "DATABASE_URL", "0")
    session = address.connect(5)
    place = find(session, None, Deadline(5))
    session.close()
    mark = server.log_size()
    with contextlib.suppress(psycopg.OperationalError), database.connect() as ours:
        ours.execute("BEGIN")
        number, pid = ours.execute("SELECT pg_current_xact_id()::text, pg_backend_pid()").fetchall()[0]
        os.kill(pid, signal.SIGKILL)
        ours.execute("COMMIT")
    # The server may still answer before it notices the crash.
    ready = "ready to accept connections"
    until(lambda: ready in server.log_text(mark) and _answers(database), 20, "the end of the crash recovery")
    assert ledger_start(database) == place.server_start
    for _ in range(50):
        database.execute("INSERT INTO others VALUES (1)")
    assert database.one(f"SELECT pg_xact_status('{number}')") == "committed", "the id was not given out again"
    sign = writing.is_applied(place, 2)
    assert settle(number, address, place, sign, None, Deadline(5)) == "aborted"
    # The server refuses an id that it has not assigned yet; the ledger answers then too.
    assert settle("99999999", address, place, sign, None, Deadline(5)) == "aborted"
    assert settle("99999999", address, place, writing.is_applied(place, 1), None, Deadline(5)) == "committed"


def ledger_start(database: Database) -> object:
    return database.one("SELECT pg_postmaster_start_time()::text")


def _answers(database: Database) -> bool:
    try:
        return bool(database.one("SELECT 1"))
    except psycopg.OperationalError:
        return False


@pytest.mark.case("B5")
def test_a_time_out_during_commit_is_no_reason_not_to_ask(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """The COMMIT waits for a standby. When PostgreSQL cancels that wait, the commit has happened."""
    server = fresh_server(settings={"synchronous_commit": "local", "synchronous_standby_names": "nobody"})
    server.create_database("standby")
    scene = Scene(Database(server, "standby"), migrations_dir, run_entrypoint)
    scene.write({"001_good.sql": "CREATE TABLE good ()"})
    scene.migrated()
    scene.write({"002_slow.sql": f"CREATE TABLE slow (); {Gate.PASS}"})
    with Gate(scene.database) as gate:
        run = scene.start("migrate", MIGRATION_TIMEOUT_MS=4000)
        gate.arrival()
        with commits_wait(scene.database):
            gate.open()
            assert run.wait() == 0, run.report()
    (record,) = run.logs("migration.commit_in_doubt")
    assert record["verdict"] == "committed"
    assert scene.ledger() == [(1, "completed"), (2, "completed")]
