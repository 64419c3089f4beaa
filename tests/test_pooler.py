"""PgBouncer in transaction mode works with the same code. Where a pooler cannot work, the message says so."""

from __future__ import annotations

import copy
import socket
import struct
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from conftest import missing
from demo.postgres import HOST
from entrypoint.database.libpq import Connection, load
from entrypoint.database.login import attempt
from entrypoint.deadline import Deadline
from kit.databases import server_errors
from kit.migrations import non_idempotent, write_migrations
from kit.pooler import executable, pooler
from scene import Gate, only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from demo.postgres import Server
    from entrypoint.database.session import Session
    from kit.databases import Database
    from kit.processes import Run


def test_replicas_race_through_a_pool_of_two(
    database: Database, small_pool: int, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(migrations_dir, non_idempotent(5))
    mark = database.server.log_size()
    env = {"DATABASE_URL": database.url_at(small_pool)}
    replicas = [run_entrypoint("run", "--", "true", env=env) for _ in range(4)]
    for replica in replicas:
        replica.ok(60)
    assert sorted(replica.outcome or "" for replica in replicas).count("migrated") == 1
    assert database.one("SELECT count(*) FROM schema_migrations WHERE status = 'completed'") == 5
    assert database.rows("SELECT locked_at, token FROM migration_lock") == [(None, None)]
    assert server_errors(database.server, mark) == []


@pytest.mark.thorough
def test_what_another_tool_has_applied_need_not_be_fit_for_a_pool(
    database: Database, small_pool: int, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """A file that needs a direct connection can be adopted through a pooler, but not run."""
    origin = "-- entrypoint: origin = dbmate {}\n-- entrypoint: no-transaction\n"
    write_migrations(
        migrations_dir,
        {
            "001_index.sql": f"{origin.format('001')}CREATE INDEX CONCURRENTLY i ON t (n);",
            "002_rest.sql": "CREATE TABLE rest ();",
        },
    )
    database.execute("CREATE SCHEMA ops; CREATE TABLE ops.versions (version varchar); CREATE TABLE t (n integer)")
    env = {"DATABASE_URL": database.url_at(small_pool), "MIGRATION_ADOPT": "dbmate:ops.versions"}
    run = run_entrypoint("migrate", env=env)
    assert run.wait() == 78
    assert "001_index.sql must run outside a transaction" in only_error(run)["message"]
    database.execute("INSERT INTO ops.versions VALUES ('001')")
    run_entrypoint("migrate", env=env).ok()
    assert database.rows("SELECT migration_number FROM schema_migrations ORDER BY 1") == [(1,), (2,)]


def test_what_a_migration_does_to_its_session_reaches_no_other_client(
    database: Database, small_pool: int, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    if not database.one("SELECT count(*) FROM pg_roles WHERE rolname = 'poor'"):
        database.execute("CREATE ROLE poor")
    write_migrations(
        migrations_dir,
        {
            "001_dump.sql": "SELECT pg_catalog.set_config('search_path', '', false); SET TIME ZONE 'Asia/Tokyo';\n"
            "CREATE TABLE public.a (id int); CREATE TEMP TABLE left_over (id int); SET ROLE poor;\n"
            "SELECT pg_advisory_lock(4711); SET statement_timeout = '1h';",
        },
    )
    with psycopg.connect(database.url_at(small_pool), autocommit=True, prepare_threshold=None) as before:
        expected = _session(before)
        run_entrypoint("migrate", env={"DATABASE_URL": database.url_at(small_pool)}).ok()
        # Reach both server connections of the pool, by keeping two transactions open at once.
        with psycopg.connect(database.url_at(small_pool), prepare_threshold=None) as first:
            one = _session(first)
            with psycopg.connect(database.url_at(small_pool), prepare_threshold=None) as second:
                two = _session(second)
    assert one == two == expected
    assert database.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def _session(connection: psycopg.Connection) -> tuple[object, ...]:
    row = connection.execute(
        "SELECT current_setting('search_path'), current_setting('TimeZone'), current_user::text, "
        "current_setting('statement_timeout'), to_regclass('pg_temp.left_over')::text, "
        "current_setting('idle_in_transaction_session_timeout')"
    ).fetchone()
    assert row is not None
    return row


def test_files_outside_a_transaction_are_refused_with_the_remedy(
    database: Database, small_pool: int, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    write_migrations(
        migrations_dir, {"001_a.sql": "CREATE TABLE a (id int);", "002_b.sql": "CREATE INDEX CONCURRENTLY b ON a (id);"}
    )
    env = {"DATABASE_URL": database.url_at(small_pool)}
    refused = run_entrypoint("migrate", env=env)
    assert refused.wait() == 78
    assert "MIGRATION_DATABASE_URL" in refused.stderr
    assert not database.exists("a")
    run_entrypoint("migrate", env={**env, "MIGRATION_DATABASE_URL": database.url}).ok()
    assert database.one("SELECT count(*) FROM schema_migrations WHERE status = 'completed'") == 2


def test_a_pool_of_one_is_told_plainly(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a (id int);"})
    with pooler(database.server, pool_size=1) as port:
        env = {"DATABASE_URL": database.url_at(port), "MIGRATION_LOCK_TIMEOUT_MS": "6000"}
        run = run_entrypoint("migrate", env=env)
        code = run.wait(30)
    assert code in (69, 75)
    assert "The pooler did not provide a second server connection" in run.stderr
    assert not database.exists("a")
    assert "Traceback" not in run.stderr


@pytest.mark.case("D13")
def test_statement_mode_is_named_at_once(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a (id int);"})
    with pooler(database.server, pool_size=3, mode="statement") as port:
        run = run_entrypoint("migrate", env={"DATABASE_URL": database.url_at(port)})
        assert run.wait() == 78
        (error,) = [record for record in run.logs() if record["level"] in ("warning", "error")]
        assert "statement mode" in error["message"]
        assert "pool_mode" in error["remedy"]
        assert "MIGRATION_DATABASE_URL" in error["remedy"]
        # As the remedy says.
        run_entrypoint(
            "migrate", env={"DATABASE_URL": database.url_at(port), "MIGRATION_DATABASE_URL": database.url}
        ).ok()


@pytest.mark.thorough
@pytest.mark.case("D13")
def test_statement_mode_that_comes_during_a_migration_is_named(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """The guard's ping is the first to see it, after 5 s at most."""
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, {"001_a.sql": f"CREATE TABLE a (); {Gate.PASS} CREATE TABLE b ();"})
    with pooler(database.server, pool_size=5) as port, Gate(database) as gate:
        run = run_entrypoint("migrate", env={"DATABASE_URL": database.url_at(port)})
        gate.arrival()
        # PgBouncer's console speaks only the simple protocol.
        with psycopg.connect(database.url_at(port), dbname="pgbouncer", autocommit=True) as console:
            assert console.pgconn.exec_(b"SET pool_mode = 'statement'").error_message == b""
        run.until("lock.guard_lost")
        gate.open()
        assert run.wait() == 78
    error = only_error(run)
    assert "statement mode" in error["message"]
    assert "pool_mode" in error["remedy"]
    assert not database.exists("a")


def _message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", 4 + len(body)) + body


@pytest.fixture
def turncoat() -> Iterator[str]:
    """Return the address of something that answers BEGIN, then says it is in statement mode, and hangs up."""
    fatal = b"SFATAL\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0"
    login = (
        _message(b"R", struct.pack("!i", 0))
        + _message(b"S", b"client_encoding\0UTF8\0")
        + _message(b"S", b"server_version\x0016.4\0")
        + _message(b"Z", b"I")
    )

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            for answer in (login, _message(b"C", b"BEGIN\0") + _message(b"Z", b"T"), _message(b"E", fatal)):
                client.recv(4096)
                client.sendall(answer)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"host={HOST} port={listener.getsockname()[1]} user=a dbname=a sslmode=disable gssencmode=disable"
        thread.join()


def _by_session(address: str) -> Session:
    return attempt(address, Deadline(5))


def _by_libpq(address: str) -> Connection:
    library = load()
    assert library is not None
    connection = Connection(library, library.parse(address) or {})
    connection.log_in(Deadline(5))
    return connection


@pytest.mark.parametrize("connect", [_by_session, _by_libpq])
def test_a_rollback_raises_nothing_in_statement_mode_either(
    turncoat: str, connect: Callable[[str], Session | Connection]
) -> None:
    session = connect(turncoat)
    try:
        session.query("BEGIN", Deadline(5))
        session.rollback(Deadline(5))
    finally:
        session.close()


@pytest.mark.thorough
@pytest.mark.case("D13")
@pytest.mark.parametrize("patience", [2, 120], ids=["PgBouncer gives up first", "we give up first"])
def test_a_pool_of_one_is_told_plainly_to_each_replica(
    database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run], patience: int
) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a (id int);"})
    with pooler(database.server, pool_size=1, patience=patience) as port:
        env = {"DATABASE_URL": database.url_at(port), "MIGRATION_LOCK_TIMEOUT_MS": "5000", "DB_CONNECT_ATTEMPTS": "2"}
        replicas = [run_entrypoint("migrate", env=env) for _ in range(3)]
        for replica in replicas:
            assert replica.wait(60) in (69, 75), replica.report()
            (error,) = [record for record in replica.logs() if record["level"] == "error"]
            assert "default_pool_size" in error["remedy"], replica.report()
            assert "MIGRATION_DATABASE_URL" in error["remedy"], replica.report()
    assert not database.exists("a")


@pytest.mark.case("D13", "D2")
def test_a_pooler_that_reaches_no_such_database_is_named(
    server: Server, migrations_dir: Path, run_entrypoint: Callable[..., Run]
) -> None:
    """It keeps us waiting, and then says only that it has waited."""
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, non_idempotent(1))
    with pooler(server, pool_size=2, patience=1) as port:
        environment = {
            "DATABASE_URL": f"postgresql://postgres@{HOST}:{port}/no_such_database",
            "DB_CONNECT_ATTEMPTS": "3",
            "DB_CONNECT_BACKOFF_MS": "50",
        }
        run = run_entrypoint("migrate", env=environment)
        assert run.wait() == 69, run.report()
    causes = {record["cause"] for record in run.logs("database.retry")} | {only_error(run)["cause"]}
    assert causes <= {"no_server_connection", "no_such_database"}


@pytest.mark.case("D13", "D2")
def test_a_pooler_whose_server_is_down_is_named(
    migrations_dir: Path, run_entrypoint: Callable[..., Run], server: Server
) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    write_migrations(migrations_dir, non_idempotent(1))
    with socket.create_server((HOST, 0)) as nobody:
        closed = nobody.getsockname()[1]
    down = copy.copy(server)
    down.port = closed
    with pooler(down, pool_size=2, patience=1) as port:
        environment = {
            "DATABASE_URL": f"postgresql://postgres@{HOST}:{port}/any",
            "DB_CONNECT_ATTEMPTS": "2",
            "DB_CONNECT_BACKOFF_MS": "50",
        }
        run = run_entrypoint("migrate", env=environment)
        assert run.wait() == 69, run.report()
    error = only_error(run)
    assert error["cause"] == "no_server_connection"
    assert "the pooler had no free server connection" in error["message"]
    assert "Check that the server behind the pooler is running" in error["remedy"]
