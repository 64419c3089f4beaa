"""SIGTERM and SIGINT in every phase: the process ends within two seconds, and nothing is half done."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from demo.postgres import HOST, free_port
from entrypoint.migration.ledger.keys import LOCK_CLASS, lock_key
from kit.migrations import write_migrations
from kit.processes import PROGRAM, descendants, status, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

pytestmark = pytest.mark.cold

PROMISE = 2.0
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
LIBC = ctypes.CDLL(None)
LEGACY = Path(__file__).parent / "fixtures" / "legacy" / "schema.sql"

HALF_DONE = "CREATE TABLE half_done (id integer);\nINSERT INTO half_done VALUES (1);\nSELECT pg_sleep(60);\n"
SLEEPING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


def interrupt(run: Run, number: signal.Signals, *, pid: int | None = None) -> float:
    """Send the signal and return how long the process took to end; its exit code must show the signal."""
    began = time.monotonic()
    os.kill(pid or run.pid, number)
    code = run.wait(20)
    took = time.monotonic() - began
    assert code == 128 + number, run.report()
    assert "Traceback" not in run.stderr, run.report()
    assert "started" not in run.stdout, "the application was started"
    return took


def application() -> tuple[str, ...]:
    return ("run", "--", "echo", "started")


def nothing_half_done(database: Database, *, within: float = 1) -> None:
    """Fail unless the migration has left no table, no row and no lock, and all sessions are gone."""
    until(lambda: database.sessions() == 0, within, "the end of the backends")
    assert not database.exists("half_done")
    assert database.one("SELECT count(*) FROM schema_migrations") == 0
    assert database.one("SELECT locked_at, token FROM migration_lock WHERE id = 1") == (None, None)
    assert (
        database.one(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = %s::oid",
            (database.one("SELECT oid FROM pg_database WHERE datname = current_database()"),),
        )
        == 0
    )


@pytest.fixture
def listener(migrations_dir: Path) -> Iterator[socket.socket]:
    """Yield a socket that never answers, and accepts connections only when the test does."""
    del migrations_dir  # empty, but it exists
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(15)
        yield listener


@pytest.fixture
def half_done(database: Database, migrations_dir: Path) -> dict[str, str]:
    """Return the environment for a migration that would take a minute."""
    write_migrations(migrations_dir, {"001_half_done.sql": HALF_DONE})
    return {"DATABASE_URL": database.url}


def in_the_statement(run: Run, database: Database) -> int:
    """Wait until the migration is in its long statement, and return its backend."""
    rows = until(lambda: database.rows(SLEEPING), 15, run.report)
    return int(rows[0][0])


# --- In every phase -------------------------------------------------------------------------------------


@BOTH
def test_while_connecting(
    run_entrypoint: Start, database: Database, listener: socket.socket, number: signal.Signals
) -> None:
    url = database.url_at(listener.getsockname()[1])
    run = run_entrypoint(*application(), env={"DATABASE_URL": url, "DB_CONNECT_TIMEOUT_MS": "30000"})
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(8), "libpq begins to talk"
        assert interrupt(run, number) < PROMISE


def miss(run: Run, number: signal.Signals) -> float:
    """Send the signal to another thread, as if it came just before the main thread's wait: that wait continues.

    Return how long the process took to end.
    """
    others = [int(task.name) for task in Path(f"/proc/{run.pid}/task").iterdir() if int(task.name) != run.pid]
    assert others, "there is a second thread"
    began = time.monotonic()
    assert LIBC.tgkill(run.pid, others[0], number) == 0
    assert run.wait(20) == 128 + number, run.report()
    return time.monotonic() - began


@pytest.mark.parametrize("earlier", [0, 1], ids=["first look", "with psycopg"])
def test_a_signal_just_before_the_wait_for_a_connection(
    run_entrypoint: Start, database: Database, listener: socket.socket, earlier: int
) -> None:
    url = database.url_at(listener.getsockname()[1])
    env = {"DATABASE_URL": url, "DB_CONNECT_TIMEOUT_MS": "15000", "DB_CONNECT_BACKOFF_MS": "1"}
    run = run_entrypoint(*application(), env=env)
    for _ in range(earlier):
        listener.accept()[0].close()
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(8), "libpq begins to talk"
        until(lambda: all_wait(run), 15, "all threads to wait")
        assert miss(run, signal.SIGTERM) < PROMISE


def test_a_signal_just_before_the_wait_for_a_statement(
    run_entrypoint: Start, database: Database, half_done: dict[str, str]
) -> None:
    run = run_entrypoint(*application(), env=half_done)
    in_the_statement(run, database)
    assert miss(run, signal.SIGTERM) < PROMISE
    nothing_half_done(database)


def all_wait(run: Run) -> bool:
    """Tell whether every thread of the process sleeps in the kernel."""
    tasks = Path(f"/proc/{run.pid}/task")
    return all(" S " in (task / "stat").read_text().rpartition(")")[2][:3] for task in tasks.iterdir())


@BOTH
def test_between_attempts(run_entrypoint: Start, migrations_dir: Path, number: signal.Signals) -> None:
    url = f"postgresql://nobody@{HOST}:{free_port()}/nothing"
    run = run_entrypoint(*application(), env={"DATABASE_URL": url, "DB_CONNECT_BACKOFF_MS": "20000"})
    assert run.until("database.retry")["pause_ms"] > 5_000
    assert interrupt(run, number) < PROMISE
    (record,) = run.logs("interrupted")
    assert record["signal"] == number.name


@pytest.mark.sampled(3)
@BOTH
@pytest.mark.parametrize("command", [application(), ("migrate",)], ids=["run", "migrate"])
def test_while_waiting_for_the_lock(
    run_entrypoint: Start,
    database: Database,
    half_done: dict[str, str],
    command: tuple[str, ...],
    number: signal.Signals,
) -> None:
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s, %s)", (LOCK_CLASS, lock_key("public")))
        run = run_entrypoint(*command, env=half_done)
        run.until("lock.waiting")
        assert interrupt(run, number) < PROMISE
        until(lambda: database.sessions(ours=2) == 0, 1, "the end of the waiter's backend")
        assert not database.exists("schema_migrations")


@BOTH
def test_while_a_replica_of_the_earlier_system_holds_the_row(
    run_entrypoint: Start, database: Database, half_done: dict[str, str], number: signal.Signals
) -> None:
    database.execute(LEGACY.read_text())
    database.execute("UPDATE migration_lock SET locked_at = now(), locked_by = 'old', process_id = 7 WHERE id = 1")
    run = run_entrypoint(*application(), env=half_done)
    run.until("lock.waiting")
    assert interrupt(run, number) < PROMISE
    until(lambda: database.sessions() == 0, 1, "the end of the waiter's backend")
    assert database.one("SELECT locked_by, process_id FROM migration_lock WHERE locked_at IS NOT NULL") == ("old", 7)
    assert not database.exists("half_done")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD])
def test_other_signals_do_no_harm(
    run_entrypoint: Start, database: Database, migrations_dir: Path, number: signal.Signals
) -> None:
    write_migrations(migrations_dir, {"001_gate.sql": "SELECT pg_advisory_lock(5), pg_advisory_unlock(5);"})
    with database.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(5)")
        run = run_entrypoint(*application(), env={"DATABASE_URL": database.url})
        until(
            lambda: database.rows(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
            )
        )
        run.kill(number)
        run.kill(number)
        gate.execute("SELECT pg_advisory_unlock(5)")
        run.ok()
    assert run.outcome == "migrated"


@pytest.mark.sampled(3)
@BOTH
@pytest.mark.parametrize("command", [application(), ("migrate",)], ids=["run", "migrate"])
def test_in_the_middle_of_a_statement(
    run_entrypoint: Start,
    database: Database,
    half_done: dict[str, str],
    command: tuple[str, ...],
    number: signal.Signals,
) -> None:
    run = run_entrypoint(*command, env=half_done)
    in_the_statement(run, database)
    assert interrupt(run, number) < PROMISE
    nothing_half_done(database)
    assert run.leftovers() == []


def test_in_the_middle_of_a_statement_that_cannot_be_cancelled(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    """A function that swallows the cancel request keeps the backend busy, but does not keep us."""
    stubborn = """\
CREATE TABLE half_done (id integer);
DO $$ DECLARE until timestamptz := clock_timestamp() + interval '4 s';
BEGIN
    WHILE clock_timestamp() < until LOOP
        BEGIN PERFORM pg_sleep(4); EXCEPTION WHEN query_canceled THEN NULL; END;
    END LOOP;
END $$;
"""
    write_migrations(migrations_dir, {"001_stubborn.sql": stubborn})
    run = run_entrypoint(*application(), env={"DATABASE_URL": database.url})
    in_the_statement(run, database)
    assert interrupt(run, signal.SIGTERM) < PROMISE
    until(lambda: database.sessions() == 0, 10, "the end of the backend")
    assert not database.exists("half_done")
    assert database.one("SELECT count(*) FROM schema_migrations") == 0


def test_what_was_committed_before_stays(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_whole.sql": "CREATE TABLE whole ();", "002_half_done.sql": HALF_DONE})
    environment = {"DATABASE_URL": database.url}
    run = run_entrypoint(*application(), env=environment)
    in_the_statement(run, database)
    assert interrupt(run, signal.SIGTERM) < PROMISE
    until(lambda: database.sessions() == 0, 1, "the end of the backends")
    assert database.exists("whole")
    assert database.rows("SELECT migration_number, status FROM schema_migrations") == [(1, "completed")]
    # The next start continues at once from where this one ended.
    write_migrations(migrations_dir, {"002_half_done.sql": HALF_DONE.replace("60", "0")})
    run_entrypoint(*application(), env=environment).ok(10)
    assert database.one("SELECT array_agg(migration_number ORDER BY 1) FROM schema_migrations") == [1, 2]


@pytest.mark.thorough
def test_while_waiting_to_try_again(run_entrypoint: Start, database: Database, migrations_dir: Path) -> None:
    """Between two attempts at a migration that cannot lock its table."""
    database.execute("CREATE TABLE busy (id integer)")
    write_migrations(migrations_dir, {"001_half_done.sql": "CREATE TABLE half_done (); ALTER TABLE busy ADD a text;"})
    with database.connect() as other, other.transaction():
        other.execute("SELECT * FROM busy")
        environment = {"DATABASE_URL": database.url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "50"}
        run = run_entrypoint(*application(), env=environment)
        run.until("migration.retry")
        assert interrupt(run, signal.SIGTERM) < PROMISE
    nothing_half_done(database)


# --- A server that does not answer ----------------------------------------------------------------------


@BOTH
def test_while_the_server_is_frozen(
    server: Server, run_entrypoint: Start, database: Database, half_done: dict[str, str], number: signal.Signals
) -> None:
    run = run_entrypoint(*application(), env=half_done)
    in_the_statement(run, database)
    server.freeze()
    try:
        assert interrupt(run, number) < PROMISE
    finally:
        server.thaw()
    until(lambda: database.sessions() == 0, 5, "the end of the backends, by themselves")
    assert not database.exists("half_done")
    assert database.one("SELECT count(*) FROM schema_migrations") == 0
    # The row still shows the token of a holder whose guard is gone. The next replica takes it at once.
    assert database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait(
    server: Server, run_entrypoint: Start, database: Database, half_done: dict[str, str], second: signal.Signals
) -> None:
    run = run_entrypoint(*application(), env=half_done)
    in_the_statement(run, database)
    server.freeze()
    try:
        threads = status(run.pid)["Threads"]
        run.terminate()
        # Either the watchdog's thread or the one that sends the cancel request: the first signal has been noticed.
        until(lambda: status(run.pid)["Threads"] != threads, 1, "a reaction to the first signal")
        assert interrupt(run, second) < 0.3
    finally:
        server.thaw()
    until(lambda: database.sessions() == 0, 5, "the end of the backends, by themselves")


def test_a_log_that_nobody_reads_does_not_keep_us(
    run_entrypoint: Start, database: Database, half_done: dict[str, str]
) -> None:
    """The pipe behind stderr fills up in the middle of a statement, so the last line cannot be written."""
    reading, writing = os.pipe()
    try:
        run = run_entrypoint(*application(), env=half_done, stderr=writing)
        in_the_statement(run, database)
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(writing, b"x" * 4096):
                pass
        os.set_blocking(writing, True)
        assert interrupt(run, signal.SIGTERM) < PROMISE
    finally:
        os.close(reading)
        os.close(writing)
    nothing_half_done(database)


# --- What was ignored stays ignored ---------------------------------------------------------------------


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_a_signal_that_was_ignored_stays_ignored(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    """As in a shell's background jobs, which Ctrl-C is not meant for."""
    write_migrations(migrations_dir, {"001_wait.sql": "SELECT pg_advisory_lock(1); CREATE TABLE done ();"})
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(1)")
        run = run_entrypoint(
            *application(),
            env={"DATABASE_URL": database.url, "MIGRATION_DDL_LOCK_TIMEOUT_MS": "20000"},
            before_exec=ignore_interrupts,
        )
        waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
        until(lambda: database.rows(waiting), 15, "the migration's wait")
        run.kill(signal.SIGINT)
        assert int(status(run.pid)["ShdPnd"], 16) == 0
        assert not database.exists("done")
    run.ok()
    assert run.stdout == "started\n"
    assert database.exists("done")


# --- As pid 1 -------------------------------------------------------------------------------------------


@pytest.fixture
def run_as_pid_1(run_program: Start) -> Callable[..., tuple[Run, int]]:
    """Return a function that starts `entrypoint` as the first process of a new pid namespace.

    It returns the run of `unshare`, which passes on the exit code, and the first process's pid outside the namespace.
    """
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        missing("no permission to make a pid namespace (unshare --pid)")

    def start(*args: str, env: dict[str, str]) -> tuple[Run, int]:
        run = run_program([*unshare, *PROGRAM, *args], env=env)
        (pid,) = until(lambda: descendants(run.pid), 5, "the child of unshare")
        return run, pid

    return start


def is_pid_1(pid: int) -> bool:
    return status(pid)["NSpid"].split()[-1] == "1"


@BOTH
def test_as_pid_1_in_the_middle_of_a_statement(
    run_as_pid_1: Callable[..., tuple[Run, int]],
    database: Database,
    half_done: dict[str, str],
    number: signal.Signals,
) -> None:
    run, pid = run_as_pid_1(*application(), env=half_done)
    in_the_statement(run, database)
    assert is_pid_1(pid)
    assert interrupt(run, number, pid=pid) < PROMISE
    nothing_half_done(database)


@pytest.mark.thorough
@BOTH
def test_as_pid_1_between_attempts(
    run_as_pid_1: Callable[..., tuple[Run, int]], migrations_dir: Path, number: signal.Signals
) -> None:
    url = f"postgresql://nobody@{HOST}:{free_port()}/nothing"
    run, pid = run_as_pid_1(*application(), env={"DATABASE_URL": url, "DB_CONNECT_BACKOFF_MS": "20000"})
    run.until("database.retry")
    assert is_pid_1(pid)
    assert interrupt(run, number, pid=pid) < PROMISE


def test_as_pid_1_while_connecting(
    run_as_pid_1: Callable[..., tuple[Run, int]], database: Database, listener: socket.socket
) -> None:
    url = database.url_at(listener.getsockname()[1])
    run, pid = run_as_pid_1(*application(), env={"DATABASE_URL": url, "DB_CONNECT_TIMEOUT_MS": "30000"})
    connection, _ = listener.accept()
    with connection:
        assert is_pid_1(pid)
        assert interrupt(run, signal.SIGTERM, pid=pid) < PROMISE


def test_as_pid_1_the_application_is_pid_1(
    run_as_pid_1: Callable[..., tuple[Run, int]], database: Database, migrations_dir: Path
) -> None:
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    run, _ = run_as_pid_1("run", "--", "sh", "-c", "echo $$; exit 7", env={"DATABASE_URL": database.url})
    assert run.wait() == 7
    assert run.stdout == "1\n"
    assert database.exists("thing")


def test_in_the_middle_of_an_import(run_program: Callable[..., Run]) -> None:
    """The handler must not depend on a module that is just being imported."""
    script = """\
import os, signal, sys
from entrypoint import signals

class Sender:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "_weakrefset":  # the first thing that threading imports
            os.kill(os.getpid(), signal.SIGTERM)

signals.install()
sys.modules.pop("threading", None), sys.modules.pop("_weakrefset", None)
sys.meta_path.insert(0, Sender)
try:
    import threading
except signals.Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""
    assert run_program([sys.executable, "-c", script]).wait() == 143


# --- Where an exception gets lost -----------------------------------------------------------------------


NOTICES = """\
CREATE TABLE half_done (id integer);
DO $$ BEGIN FOR i IN 1..400000 LOOP RAISE NOTICE 'row %', i; END LOOP; END $$;
"""


def nothing_half_done_or_left_to_the_server(run: Run, database: Database) -> None:
    """Like `nothing_half_done`, but if notices kept the program from its connection, the lock's row has a token."""
    if run.logs("lock.abandoned"):
        # The next replica takes it at once, since its guard is gone.
        database.execute("UPDATE migration_lock SET locked_at = NULL, token = NULL")
    nothing_half_done(database)


@BOTH
@pytest.mark.case("B1")
def test_while_notices_come(
    run_entrypoint: Start, database: Database, migrations_dir: Path, number: signal.Signals
) -> None:
    """Our callback gets notices from libpq, and an exception raised in a callback of C code is lost."""
    write_migrations(migrations_dir, {"001_half_done.sql": NOTICES})
    run = run_entrypoint(*application(), env={"DATABASE_URL": database.url})
    run.until("migration.notice")
    assert interrupt(run, number) < PROMISE
    nothing_half_done_or_left_to_the_server(run, database)


@pytest.mark.case("B1")
def test_while_more_notices_have_come_than_can_be_told(
    run_entrypoint: Start, database: Database, migrations_dir: Path
) -> None:
    """Megabytes are queued between the server and the program, which logs its end anyway."""
    write_migrations(migrations_dir, {"001_half_done.sql": NOTICES})
    run = run_entrypoint(*application(), env={"DATABASE_URL": database.url})
    run.until("migration.notice")
    run.kill(signal.SIGSTOP)
    full = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'ClientWrite'"
    until(lambda: database.rows(full), 15, "the server to wait for the program")
    run.terminate()
    began = time.monotonic()
    run.kill(signal.SIGCONT)
    assert run.wait(20) == 128 + signal.SIGTERM
    assert time.monotonic() - began < PROMISE
    assert run.events()[-1] == "interrupted"
    nothing_half_done_or_left_to_the_server(run, database)


def loses_the_exception(how: str) -> str:
    """Return a program that gets a signal where Python drops exceptions, and then waits in our usual way."""
    return f"""\
import os, signal, sys, time, weakref
from entrypoint import signals
from entrypoint.deadline import pause

class Thing:
    pass

def send(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass  # The handler runs between two of these, at the latest.

signals.install()
{how}
began = time.monotonic()
try:
    {{then}}
except signals.Interrupted as interrupted:
    assert time.monotonic() - began < 0.5
    sys.exit(interrupted.exit_code)
"""


@pytest.mark.sampled(3)
@pytest.mark.case("B1")
@pytest.mark.parametrize("then", ["pause(1.2)", "signals.raise_received()"], ids=["slice", "hand-over"])
@pytest.mark.parametrize(
    "how",
    [
        "Thing.__del__ = send; thing = Thing(); del thing",
        "thing = Thing(); reference = weakref.ref(thing, send); del thing",
        "import ctypes; ctypes.CFUNCTYPE(None)(send)()",
        "import ctypes; call = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: send() or 1); call()",
    ],
    ids=["__del__", "weakref", "ctypes", "ctypes with a result"],
)
def test_an_exception_that_python_drops(run_program: Callable[..., Run], how: str, then: str) -> None:
    run = run_program([sys.executable, "-c", loses_the_exception(how).replace("{then}", then)])
    assert run.wait() == 143, run.report()
    assert "Traceback" not in run.stderr, run.report()


@pytest.mark.case("B1")
def test_an_exception_that_a_clean_up_replaces(run_program: Callable[..., Run]) -> None:
    how = """\
try:
    try:
        send()
    finally:
        raise ValueError
except ValueError:
    pass
"""
    script = loses_the_exception(how).replace("{then}", "signals.raise_received()")
    run = run_program([sys.executable, "-c", script])
    assert run.wait() == 143, run.report()


@pytest.mark.case("B1")
def test_nothing_is_raised_in_a_callback_of_c(run_program: Callable[..., Run]) -> None:
    script = """\
import os, signal, sys
from entrypoint import signals
signals.install()
try:
    with signals.NotInCallbacks():
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
        print("whole", flush=True)
except signals.Interrupted as interrupted:
    sys.exit(interrupted.exit_code)
"""
    run = run_program([sys.executable, "-c", script])
    assert run.wait() == 143, run.report()
    assert run.stdout == "whole\n"


@pytest.mark.case("B1")
def test_the_application_is_not_started_once_a_signal_has_come(run_program: Callable[..., Run]) -> None:
    script = """\
import os, signal, sys
from entrypoint import handover, signals
inherited = handover.inherit()
signals.install()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass
except signals.Interrupted:
    pass
try:
    handover.hand_over(["echo", "started"], inherited.environment, inherited)
except signals.Interrupted as interrupted:
    os._exit(interrupted.exit_code)
"""
    run = run_program([sys.executable, "-c", script])
    assert run.wait() == 143, run.report()
    assert run.stdout == ""


# --- Before `main` --------------------------------------------------------------------------------------

COMMAND = Path(__file__).parents[1] / "bin" / "entrypoint"


@pytest.mark.sampled(3)
@BOTH
@pytest.mark.case("D14")
@pytest.mark.parametrize("module", ["entrypoint", "entrypoint.__main__", "entrypoint.handover", "entrypoint.signals"])
def test_while_the_program_is_imported(run_program: Callable[..., Run], module: str, number: signal.Signals) -> None:
    script = f"""\
import os, runpy, signal, sys

class Sender:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
            for _ in range(1000):
                pass

sys.meta_path.insert(0, Sender)
sys.argv = ["entrypoint", "--version"]
runpy.run_path({str(COMMAND)!r}, run_name="__main__")
"""
    run = run_program([sys.executable, "-c", script])
    assert run.wait() == 128 + number, run.report()
    assert run.stderr == ""
