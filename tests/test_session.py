"""Sessions over each route to libpq: our own binding, with psycopg's libpq or the system's, and psycopg's binding."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST, Server, free_port
from entrypoint.database import binding as ways
from entrypoint.database import libpq, pq_ctypes, pq_psycopg
from entrypoint.database.answers import NotConnected, StatementError
from entrypoint.database.login import attempt
from entrypoint.database.pq import PqError
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError
from kit.migrations import non_idempotent
from kit.processes import PROGRAM, until
from kit.proxy import Proxy
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from entrypoint.database.answers import Notice, Result
    from entrypoint.database.pq import Binding
    from entrypoint.database.session import Session
    from kit.databases import Database
    from kit.processes import Run

pytestmark = pytest.mark.cold

KIT = Path(__file__).parent / "kit"
QUICK = {"DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_BACKOFF_MS": "20"}


def of_the_system() -> libpq.Libpq | None:
    """Return the system's libpq, which is usually older than psycopg's."""
    try:
        return libpq.Libpq("libpq.so.5", os.RTLD_NOW)
    except OSError:
        return None


def way(name: str) -> Binding:
    if name == "psycopg":
        return pq_psycopg.Binding()
    library = of_the_system() if name == "system" else libpq.load()
    if library is None:
        pytest.skip("no such libpq on this machine")
    return pq_ctypes.Binding(library)


@pytest.fixture(params=["ours", "system", "psycopg"])
def binding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Binding:
    chosen = way(request.param)
    monkeypatch.setattr(ways, "_binding", chosen)
    return chosen


@pytest.fixture
def session(binding: Binding, database: Database) -> Iterator[Session]:
    session = attempt(database.url, Deadline(10))
    yield session
    session.close()


def results_of(session: Session, sql: str, *, single: bool = False) -> list[tuple[int, bytes | None]]:
    """Return how many rows of each result were handed over, and its first value."""
    found: list[tuple[int, bytes | None]] = []

    def take(result: Result) -> None:
        found.append((result.ntuples, result.get_value(0, 0)))

    (session.statement if single else session.script)(sql, Deadline(10), take)
    return found


# --- Answers --------------------------------------------------------------------------------------------


def test_rows(session: Session) -> None:
    sql = "SELECT NULL, '', 'grün, 日本語, \U0001f418'; SELECT FROM generate_series(1, 2); SELECT 1 WHERE false; "
    assert session.query(sql + "SET x.y = 1", Deadline(10)) == [
        [(None, "", "grün, 日本語, \U0001f418")],
        [(), ()],
        [],
        [],
    ]
    assert session.query("", Deadline(10)) == [[]]


def test_what_a_migration_selects_is_not_kept(session: Session) -> None:
    [many, one] = results_of(session, "SELECT generate_series(1, 1234); SELECT 'last'")
    assert 1 <= many[0] <= 500
    assert one == (1, b"last")


@pytest.mark.parametrize("binding", ["ours", "system"], indirect=True)
def test_a_value_that_is_not_there(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    """By itself, libpq would print a notice about it."""
    heard: list[Notice] = []
    session.on_notice = heard.append
    assert results_of(session, "SELECT 1 WHERE false; SELECT") == [(0, None), (1, None)]
    assert session.query("SELECT 1", Deadline(5)) == [[("1",)]]
    assert heard == []
    assert capfd.readouterr() == ("", "")


def test_errors(session: Session) -> None:
    with pytest.raises(StatementError) as error:
        session.query("SELECT 1; SELECT 1/0; SELECT 2", Deadline(10))
    assert (error.value.sqlstate, error.value.severity, error.value.statement) == ("22012", "ERROR", 1)
    assert error.value.primary == "division by zero"
    with pytest.raises(StatementError) as error:
        session.query("SELEC", Deadline(10))
    assert error.value.position == 0
    assert session.query("SELECT 1", Deadline(10)) == [[("1",)]]


def test_two_statements_are_refused_where_one_is_wanted(session: Session) -> None:
    assert results_of(session, "SELECT 7", single=True) == [(1, b"7")]
    with pytest.raises(StatementError) as error:
        results_of(session, "SELECT 1; SELECT 2", single=True)
    assert error.value.sqlstate == "42601"


@pytest.mark.parametrize("sql", ["COPY (SELECT 1) TO STDOUT", "CREATE TEMP TABLE c (a int); COPY c FROM STDIN"])
def test_there_is_no_client_to_copy_from_or_to(session: Session, sql: str) -> None:
    with pytest.raises((StatementError, ConnectionLostError)):
        session.query(sql, Deadline(10))
    if "FROM" in sql:
        assert session.query("SELECT 1", Deadline(10)) == [[("1",)]]


def test_a_transactions_state(session: Session) -> None:
    seen = [session.in_transaction]
    session.query("BEGIN", Deadline(5))
    seen.append(session.in_transaction)
    with pytest.raises(StatementError):
        session.query("SELECT 1/0", Deadline(5))
    seen.append(session.in_transaction)
    session.rollback(Deadline(5))
    seen.append(session.in_transaction)
    session.close()
    assert [*seen, session.in_transaction, session.usable] == [False, True, True, False, False, False]
    with pytest.raises(ConnectionLostError, match="it is closed"):
        session.query("SELECT 1", Deadline(5))


def test_settings_as_the_server_reports_them(session: Session) -> None:
    assert session.parameter("client_encoding") == "UTF8"
    assert session.parameter("no_such_setting") is None
    before = session.escapes
    session.query("SET standard_conforming_strings = off; SET client_encoding = 'LATIN1'", Deadline(5))
    assert (before, session.escapes) == (False, True)
    assert session.parameter("client_encoding") == "LATIN1"
    with pytest.raises(StatementError, match="division"):
        session.query("SELECT 1/0", Deadline(5))
    session.close()
    assert session.parameter("client_encoding") is None


def test_a_text_of_16_mb_is_sent_and_comes_back(session: Session) -> None:
    """The kernel does not take it all at once, so the rest is sent while we listen to the server."""
    text = "x" * (16 << 20)
    [[[value]]] = session.query(f"SELECT '{text}'", Deadline(60))
    assert value == text


# --- Notices --------------------------------------------------------------------------------------------


def test_notices_come_as_they_are_sent(session: Session) -> None:
    heard: list[tuple[Notice, float]] = []
    session.on_notice = lambda notice: heard.append((notice, time.monotonic()))
    session.query(
        "DO $$ BEGIN RAISE WARNING 'grün' USING DETAIL = 'd', HINT = 'h', ERRCODE = '01999'; PERFORM pg_sleep(0.5); "
        "RAISE NOTICE 'second'; END $$",
        Deadline(10),
    )
    (first, at), (second, later) = heard
    assert tuple(first) == ("WARNING", "grün", "01999", "d", "h")
    assert (second.severity, second.message) == ("NOTICE", "second")
    assert later - at >= 0.4


def test_many_notices_come_in_their_order(session: Session) -> None:
    heard: list[str] = []
    session.on_notice = lambda notice: heard.append(notice.message)
    session.query("DO $$ BEGIN FOR i IN 1 .. 5000 LOOP RAISE NOTICE '%', i; END LOOP; END $$", Deadline(30))
    assert heard == [str(number) for number in range(1, 5001)]


def test_notices_that_nobody_wants_are_dropped(session: Session, capfd: pytest.CaptureFixture[str]) -> None:
    session.query("DO $$ BEGIN RAISE WARNING 'x'; END $$", Deadline(5))
    heard: list[Notice] = []
    session.on_notice = heard.append
    session.query("SELECT 1", Deadline(5))
    assert heard == []
    assert capfd.readouterr() == ("", "")


def test_what_listening_raises_ends_the_statement(session: Session) -> None:
    def raising(_notice: Notice) -> None:
        raise LookupError

    session.on_notice = raising
    began = time.monotonic()
    with pytest.raises(LookupError):
        session.query("DO $$ BEGIN RAISE NOTICE 'x'; PERFORM pg_sleep(30); END $$", Deadline(60))
    assert time.monotonic() - began < 5
    session.on_notice = None
    assert session.query("SELECT 1", Deadline(5)) == [[("1",)]]


def test_sessions_hear_their_own_notices(binding: Binding, database: Database) -> None:
    """From several threads at once. Connections come and go, and libpq reuses their memory."""
    wrong: list[str] = []

    def work(name: str) -> None:
        for turn in range(5):
            session = attempt(database.url, Deadline(20))
            heard: list[str] = []
            session.on_notice = lambda notice, heard=heard: heard.append(notice.message)
            word = f"{name} {turn}"
            session.query(f"DO $$ BEGIN FOR i IN 1 .. 200 LOOP RAISE NOTICE '{word}'; END LOOP; END $$", Deadline(20))
            session.close()
            if heard != [word] * 200:
                wrong.append(f"{word}: {heard[:3]}, {len(heard)}")

    threads = [threading.Thread(target=work, args=(f"thread {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


# --- The end --------------------------------------------------------------------------------------------


def test_a_deadline_cancels(session: Session) -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionLostError, match=r"no answer within 0\.3 s"):
        session.query("SELECT pg_sleep(30)", Deadline(0.3))
    assert time.monotonic() - began < 2
    assert session.query("SELECT 1", Deadline(5)) == [[("1",)]]


def test_another_thread_cancels(session: Session) -> None:
    canceller = threading.Timer(0.3, session.cancel)
    canceller.start()
    with pytest.raises(StatementError) as error:
        session.query("SELECT pg_sleep(30)", Deadline(20))
    assert error.value.sqlstate == "57014"
    canceller.join()
    session.close()
    session.cancel()


def test_a_cancel_that_gets_no_answer_does_not_hold_anybody_up(binding: Binding, database: Database) -> None:
    with Proxy(database.server.port) as proxy:
        session = attempt(database.url_at(proxy.port), Deadline(10))
        proxy.deafen()
        began = time.monotonic()
        session.cancel(0.3)
        assert time.monotonic() - began < 1
        session.close()


def while_idle(session: Session, wake: int) -> None:
    """Wait as the guard does.

    A message from the server and the end of the connection may arrive one after the other.
    """
    for _ in range(3):
        session.wait_for_end(10, wake)


def test_the_end_of_an_idle_connection_is_seen_at_once(session: Session, database: Database) -> None:
    reading, writing = os.pipe()
    try:
        session.wait_for_end(0.01, reading)
        database.execute("SELECT pg_terminate_backend(%s)", (session.login_pid,))
        with pytest.raises(ConnectionLostError) as error:
            while_idle(session, reading)
        assert error.value.sqlstate == "57P01"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_connection_that_is_cut(binding: Binding, database: Database) -> None:
    with Proxy(database.server.port) as proxy:
        session = attempt(database.url_at(proxy.port), Deadline(10))
        proxy.cut()
        with pytest.raises(ConnectionLostError):
            session.query("SELECT 1", Deadline(5))
        session.rollback(Deadline(5))
        session.close()
        session.close()


# --- Addresses and logins -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("", {}),
        ("host=a port=1", {"host": "a", "port": "1"}),
        ("postgresql://u:p%20q@h/d", {"user": "u", "password": "p q", "host": "h", "dbname": "d"}),
        ("postgresql://u:%E4@h", {"user": "u", "password": "\udce4", "host": "h"}),
        ("password=''", {"password": ""}),
    ],
)
def test_addresses(binding: Binding, address: str, found: dict[str, str]) -> None:
    assert binding.parse(address) == found


@pytest.mark.parametrize(
    ("address", "said"), [("host='", "unterminated quoted string"), ("postgresql://u:p%zz@h/d", "percent-encoded")]
)
def test_malformed_addresses(binding: Binding, address: str, said: str) -> None:
    with pytest.raises(PqError, match=said):
        binding.parse(address)


def test_defaults(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATABASE", "grün")
    monkeypatch.delenv("PGPORT", raising=False)
    defaults = binding.defaults()
    assert (defaults["dbname"], defaults["port"], defaults["password"]) == ("grün", "5432", None)


def test_a_login_that_fails(binding: Binding, database: Database) -> None:
    with pytest.raises(NotConnected, match="no_such_database_here"):
        binding.connect({**binding.parse(database.url), "dbname": "no_such_database_here"}, Deadline(10))
    with pytest.raises(NotConnected, match="refused"):
        binding.connect({"host": HOST, "port": str(free_port()), "user": "a"}, Deadline(10))


def test_what_another_program_is_told(binding: Binding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host in a list that let us in, and the password, wherever it came from."""
    with Server(hba=["host all app 127.0.0.1/32 scram-sha-256"]) as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE app LOGIN PASSWORD 'quokka'")
        passfile = tmp_path / "passfile"
        passfile.write_text(f"{HOST}:{server.port}:*:app:quokka\n")
        passfile.chmod(0o600)
        monkeypatch.setenv("PGAPPNAME", "somebody")
        hosts = f"host={HOST},{HOST} port={free_port()},{server.port}"
        session = attempt(f"{hosts} user=app dbname=postgres passfile={passfile}", Deadline(10))
        public, secret = session.parameters()
        session.close()
    assert secret == {"password": "quokka"}
    assert public["host"] == public["hostaddr"] == HOST
    assert public["port"] == str(server.port)
    assert (public["user"], public["dbname"], public["application_name"]) == ("app", "postgres", "somebody")


# --- Whole programs -------------------------------------------------------------------------------------


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.fixture(params=["by_psycopg", "by_system_libpq"])
def other(scene: Scene, request: pytest.FixtureRequest) -> Scene:
    """Return a scene whose program reaches libpq in another way."""
    if PROGRAM[0] != sys.executable:
        pytest.skip("another build of the program brings one libpq along")
    if request.param == "by_system_libpq" and of_the_system() is None:
        pytest.skip("no libpq on this machine but psycopg's")

    def launch(*args: str, env: Mapping[str, str], **options: Any) -> Run:
        return scene.launch(*args, env={**env, "PYTHONPATH": str(KIT / request.param)}, **options)

    return replace(scene, launch=launch)


def test_a_start_that_migrates(other: Scene) -> None:
    other.write({**non_idempotent(3), "004_notice.sql": "DO $$ BEGIN RAISE WARNING 'careful'; END $$;"})
    run = other.start("run", "--", "true").ok()
    assert run.outcome == "migrated"
    assert [record["message"] for record in run.logs("migration.notice")] == ["004_notice.sql: WARNING: careful"]
    assert other.start("run", "--", "true").ok().outcome == "up_to_date"


@pytest.mark.thorough
def test_a_start_that_fails(other: Scene) -> None:
    other.write({"001_a.sql": "CREATE TABLE a ();", "002_b.sql": "SELECT 1/0;"})
    run = other.start("migrate")
    assert run.wait() == 70
    assert "division by zero" in run.stderr
    refused = other.start("migrate", url=f"postgresql://{HOST}:{free_port()}/x", **QUICK)
    assert refused.wait() == 69
    assert [record["cause"] for record in refused.logs("database.retry")] == ["refused"]


@pytest.mark.thorough
def test_a_signal_amid_notices(other: Scene) -> None:
    """The signal is likely to arrive during the callback."""
    other.write({"001_a.sql": "DO $$ BEGIN LOOP RAISE NOTICE 'again'; END LOOP; END $$;"})
    run = other.start("migrate")
    run.until("migration.notice")
    began = time.monotonic()
    run.kill(signal.SIGTERM)
    assert run.wait() == 143
    assert time.monotonic() - began < 2
    until(lambda: other.database.sessions() == 0, 5, "the end of the sessions")
