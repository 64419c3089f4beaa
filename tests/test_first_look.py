"""The first look gives the same answers as a session would, or leaves the question to one."""

from __future__ import annotations

import itertools
import signal
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST, free_port
from entrypoint.database import libpq
from entrypoint.database.answers import StatementError
from entrypoint.database.target import target
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError
from kit.migrations import non_idempotent, write_migrations
from kit.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from entrypoint.database.session import Session
    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

pytestmark = pytest.mark.cold

# Runs the program after a change to the first look, then prints what was needed.
PROGRAM = """\
import sys
from entrypoint.database import libpq
{change}
def tell(event, arguments, seen=[]):
    if event == "os.exec" and not seen:
        seen.append(event)
        needed = ("psycopg", "entrypoint.database.session")
        print(next((name for name in needed if name in sys.modules), "first look"), flush=True)
sys.addaudithook(tell)
from entrypoint.__main__ import main
main()
"""

SESSION = "entrypoint.database.session"


@pytest.fixture
def look(database: Database) -> Iterator[libpq.Connection]:
    library = libpq.load()
    assert library is not None
    parameters = library.parse(database.url)
    assert parameters is not None
    connection = libpq.Connection(library, parameters)
    connection.log_in(Deadline(10))
    yield connection
    connection.close()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    session = target(database.url, "DATABASE_URL", "0").connect(10)
    yield session
    session.close()


@pytest.fixture
def up_to_date(database: Database, migrations_dir: Path, run_entrypoint: Start) -> Database:
    write_migrations(migrations_dir, non_idempotent(3))
    run_entrypoint("migrate", env={"DATABASE_URL": database.url}).ok()
    return database


@pytest.fixture
def way(run_program: Start, migrations_dir: Path) -> Callable[..., tuple[str, Run]]:
    """Return a function that starts the program and returns how it found that the schema is up to date."""

    def start(url: str, change: str = "", **env: str) -> tuple[str, Run]:
        argv = [sys.executable, "-c", PROGRAM.format(change=change), "run", "--", "true"]
        variables = {"DATABASE_URL": url, "MIGRATIONS_DIR": str(migrations_dir), **env}
        run = run_program(argv, env=variables).ok()
        assert run.outcome == "up_to_date", run.report()
        return run.stdout.strip(), run

    return start


# --- The same answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT NULL, '', ' ', 'x'",
        "SELECT 'grün, 日本語, \U0001f418', chr(1)",
        "SELECT i, i::text FROM generate_series(1, 3000) AS i",
        "SELECT FROM generate_series(1, 3)",
        "SELECT 1 WHERE false",
        "BEGIN; SELECT 1; SET LOCAL lock_timeout = 5; SELECT 2, 3; COMMIT",
        "DO $$ BEGIN RAISE WARNING 'careful'; END $$; SELECT 1",
        "SHOW client_encoding",
    ],
)
def test_rows(look: libpq.Connection, session: Session, sql: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert look.query(sql, Deadline(10)) == session.query(sql, Deadline(10))
    assert capfd.readouterr() == ("", "")  # By default, libpq would print a notice.


@pytest.mark.parametrize(
    "sql", ["SELECT nonsense", "SELECT 1; SELECT 1/0; SELECT 2", "SELEC", "BEGIN; SELECT 1/0; COMMIT"]
)
def test_errors(look: libpq.Connection, session: Session, sql: str) -> None:
    told = []
    for connection in (look, session):
        with pytest.raises(StatementError) as error:
            connection.query(sql, Deadline(10))
        told.append(vars(error.value))
        connection.rollback(Deadline(10))
        assert connection.query("SELECT 1", Deadline(10)) == [[("1",)]]
    assert told[0] == told[1]


def test_a_connection_that_ends(look: libpq.Connection, database: Database) -> None:
    database.execute("SELECT pg_terminate_backend(%s)", (look.backend_pid,))
    with pytest.raises(ConnectionLostError):
        look.query("SELECT 1", Deadline(10))
    look.rollback(Deadline(10))


def test_a_server_that_does_not_answer(look: libpq.Connection) -> None:
    with pytest.raises(ConnectionLostError, match=r"no answer within 0\.2 s"):
        look.query("SELECT pg_sleep(30)", Deadline(0.2))


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("", {}),
        ("host=a port=1", {"host": "a", "port": "1"}),
        ("postgresql://u:p%20q@h/d?sslmode=require", {
            "user": "u", "password": "p q", "host": "h", "dbname": "d", "sslmode": "require",
        }),
        ("postgresql://u:p%zz@h/d", None),
        ("host='", None),
    ],
)  # fmt: skip
def test_addresses(address: str, found: dict[str, str] | None) -> None:
    library = libpq.load()
    assert library is not None
    assert library.parse(address) == found


# --- Which one answers ----------------------------------------------------------------------------------


def test_the_usual_way_is_without_a_session(up_to_date: Database, way: Callable[..., tuple[str, Run]]) -> None:
    assert way(up_to_date.url)[0] == "first look"
    assert way(up_to_date.url, MIGRATION_ROLE="postgres", MIGRATION_SCHEMA="public")[0] == "first look"


@pytest.mark.parametrize(
    ("change", "needed"),
    [
        pytest.param("libpq.load = lambda: None", "psycopg", id="no libpq"),
        pytest.param(
            "import _ctypes, ctypes, entrypoint.database as room\n"
            "del sys.modules[libpq.__name__], room.libpq, _ctypes.byref",
            "psycopg",
            id="another _ctypes",
        ),
        pytest.param("libpq.bundled = lambda: 'libc.so.6'", "psycopg", id="a library that is not libpq"),
        pytest.param("libpq.bundled = lambda: '/no/such/libpq.so'", "psycopg", id="a libpq that cannot be loaded"),
        pytest.param("libpq.Connection.query = lambda *_: 1 / 0", SESSION, id="a mistake of ours"),
        pytest.param("libpq.Connection.query = lambda *_: []", SESSION, id="an answer that makes no sense"),
    ],
)
def test_a_session_is_asked_where_the_first_look_has_no_answer(
    up_to_date: Database, way: Callable[..., tuple[str, Run]], change: str, needed: str
) -> None:
    which, run = way(up_to_date.url, change)
    assert which == needed
    assert [event for event in run.events() if event != "schema.up_to_date"] == []


def test_several_hosts_are_a_sessions(up_to_date: Database, way: Callable[..., tuple[str, Run]]) -> None:
    """Each host has its own timeout, which libpq's non-blocking calls leave to their caller."""
    url = f"host={HOST},{HOST} port={free_port()},{up_to_date.server.port} user=postgres dbname={up_to_date.name}"
    assert way(url)[0] == SESSION
    own = up_to_date.server
    variables = {"PGHOST": f"{HOST},{HOST}", "PGPORT": f"{own.port},{own.port}", "PGUSER": "postgres"}
    assert way(f"dbname={up_to_date.name}", **variables)[0] == SESSION


# --- Failures part-way ----------------------------------------------------------------------------------


def test_a_connection_that_is_cut_counts_as_an_attempt(
    up_to_date: Database, proxy: Proxy, run_entrypoint: Start
) -> None:
    env = {"DATABASE_URL": up_to_date.url_at(proxy.port), "DB_CONNECT_BACKOFF_MS": "1"}
    proxy.when_client_sends(b"c.relkind", Proxy.cut)
    run = run_entrypoint("run", "--", "true", env=env).ok()
    assert (run.outcome, proxy.connections) == ("up_to_date", 2)
    assert "database.retry" in run.events()

    proxy.when_client_sends(b"c.relkind", Proxy.cut)
    run = run_entrypoint("migrate", env={**env, "DB_CONNECT_ATTEMPTS": "1"})
    assert run.wait() == 69
    assert proxy.connections == 3
    assert "database.lost" in run.events()


@pytest.mark.thorough
def test_the_pauses_grow_where_the_connection_is_lost_each_time(
    up_to_date: Database, proxy: Proxy, run_entrypoint: Start
) -> None:
    """PgBouncer has this effect: it accepts clients while its own logins to the server fail."""

    def cut(proxy: Proxy) -> None:
        proxy.cut()
        proxy.when_client_sends(b"c.relkind", cut)

    proxy.when_client_sends(b"c.relkind", cut)
    env = {"DATABASE_URL": up_to_date.url_at(proxy.port), "DB_CONNECT_BACKOFF_MS": "100", "DB_CONNECT_ATTEMPTS": "4"}
    run = run_entrypoint("migrate", env=env)
    assert run.wait() == 69
    assert proxy.connections == 4
    pauses = [record["pause_ms"] for record in run.logs("database.retry")]
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(pauses, (100, 200, 400), strict=True)), pauses
    times = [record["time"] for record in (*run.logs("database.retry"), *run.logs("database.lost"))]
    moments = [datetime.fromisoformat(time) for time in times]
    waited = [(after - before).total_seconds() for before, after in itertools.pairwise(moments)]
    assert all(seconds >= pause / 1000 for seconds, pause in zip(waited, pauses, strict=True)), waited


def test_a_server_that_refuses_counts_as_an_attempt(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, non_idempotent(1))
    env = {"DATABASE_URL": f"postgresql://{HOST}:{free_port()}/x", "DB_CONNECT_BACKOFF_MS": "1"}
    run = run_entrypoint("migrate", env={**env, "DB_CONNECT_ATTEMPTS": "3"})
    assert run.wait() == 69
    assert [record["attempt"] for record in run.logs("database.retry")] == [1, 2]


def test_a_signal_while_the_server_is_silent(up_to_date: Database, proxy: Proxy, run_entrypoint: Start) -> None:
    silent = proxy.when_client_sends(b"c.relkind", Proxy.deafen, deliver=False)
    run = run_entrypoint("run", "--", "true", env={"DATABASE_URL": up_to_date.url_at(proxy.port)})
    assert silent.wait(10)
    began = time.monotonic()
    run.kill(signal.SIGTERM)
    assert run.wait() in (143, -signal.SIGTERM)
    assert time.monotonic() - began < 2
