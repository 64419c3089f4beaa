"""Connecting: the cause in words, how often and how long to retry, and servers that accept no writes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from demo.postgres import HOST, Server, free_port
from kit.databases import Database
from kit.migrations import write_migrations
from kit.proxy import Proxy
from scene import LEGACY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from conftest import ServerFactory
    from kit.processes import Run

    Start = Callable[..., Run]

APPLICATION = ("run", "--", "sh", "-c", 'echo "$ENTRYPOINT_OUTCOME|$ENTRYPOINT_SCHEMA_VERSION|$ENTRYPOINT_ERROR"')
QUICK = {"DB_CONNECT_ATTEMPTS": "3", "DB_CONNECT_BACKOFF_MS": "20", "DB_CONNECT_TIMEOUT_MS": "2000"}
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


class FakeServer:
    """Accepts connections, counts them, and answers each with one FATAL error, with TLS, or not at all."""

    def __init__(self, *, fatal: tuple[str, str] | None = None, tls: bool = False, silent: bool = False) -> None:
        """`fatal`: SQLSTATE and message to answer every login with; without it, the connection is closed."""
        self.fatal, self.tls, self.silent = fatal, tls, silent
        self.connections = 0
        self._listener = socket.create_server((HOST, 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="fake server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for connection in self._open:
            connection.close()

    def url(self, **parameters: str) -> str:
        tail = "&".join(f"{name}={value}" for name, value in ({"gssencmode": "disable"} | parameters).items())
        return f"postgresql://somebody@{HOST}:{self.port}/shop?{tail}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.silent:
                self._open.append(connection)
                continue
            with connection, contextlib.suppress(OSError, struct.error):
                connection.settimeout(5)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        while True:
            length = struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))[0]
            body = connection.recv(length - 4, socket.MSG_WAITALL)
            code = struct.unpack("!i", body[:4])[0]
            if code not in (SSL_REQUEST, GSS_REQUEST):
                break
            connection.sendall(b"S" if self.tls and code == SSL_REQUEST else b"N")
            if self.tls and code == SSL_REQUEST:
                connection.recv(1)  # whatever it returns
                return
        if self.fatal is not None:
            state, message = self.fatal
            fields = b"".join(
                kind + value.encode() + b"\0"
                for kind, value in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", state), (b"M", message))
            )
            connection.sendall(b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0")


@pytest.fixture
def connecting(run_entrypoint: Start, migrations_dir: Path) -> Callable[..., Run]:
    """Return a function that starts an application with an address, retries quickly, and waits for it to exit."""

    def run(url: str | None, env: Mapping[str, str] | None = None, *, command: tuple[str, ...] = APPLICATION) -> Run:
        address = {} if url is None else {"DATABASE_URL": url}
        run = run_entrypoint(*command, env={**QUICK, **address, **(env or {})})
        run.wait()
        assert "Traceback" not in run.stderr
        return run

    return run


def failure(run: Run) -> dict[str, Any]:
    """Return the log record of a failed start that ran the application anyway."""
    assert run.code == 0, run.report()
    (record,) = run.logs("database.unavailable")
    outcome, _, error = run.stdout.strip().split("|", 2)
    assert outcome == "failed"
    assert error == " ".join(record["message"].split())
    assert record["level"] == "error"
    assert record["remedy"]
    return record


# --- Causes ---------------------------------------------------------------------------------------------


def test_refused(connecting: Callable[..., Run]) -> None:
    run = connecting(f"postgresql://somebody@{HOST}:{free_port()}/shop")
    record = failure(run)
    assert record["message"].startswith("Database connection failed after 3 attempts: connection refused")
    assert record["cause"] == "refused"
    assert [retry["attempt"] for retry in run.logs("database.retry")] == [1, 2]


@pytest.mark.case("E10")
@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_URL_FILE", "MIGRATION_DATABASE_URL_FILE"])
def test_the_remedy_names_the_variable_that_was_read(
    run_entrypoint: Callable[..., Run], migrations_dir: Path, tmp_path: Path, name: str
) -> None:
    address = f"postgresql://{HOST}:{free_port()}/shop"
    secret = tmp_path / "url"
    secret.write_text(address)
    file = name.endswith("_FILE")
    run = run_entrypoint("migrate", env={**QUICK, name: str(secret) if file else address})
    assert run.wait() == 69
    named = f"the file that {name} names" if file else name
    assert f"Check the host and port in {named}, and that PostgreSQL is running" in run.stderr


def test_unknown_host(connecting: Callable[..., Run]) -> None:
    began = time.monotonic()
    record = failure(connecting("postgresql://somebody@database.invalid/shop"))
    assert record["message"].startswith("Database connection failed after 3 attempts: unknown host")
    assert "database.invalid" in record["message"]
    assert time.monotonic() - began < 3 * 2 + 0.06 + 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("fatal", "cause", "words"),
    [
        (("57P03", "the database system is starting up"), "starting_up", "starting up"),
        (("57P03", "the database system is not yet accepting connections"), "starting_up", "starting up"),
        (("57P03", "the database system is in recovery mode"), "starting_up", "starting up"),
        (("57P03", "the database system is shutting down"), "shutting_down", "shutting down"),
        (("XX000", "something that nobody has ever read"), "other", "something that nobody has ever read"),
    ],
)
def test_what_a_server_says_and_may_take_back(
    connecting: Callable[..., Run], fatal: tuple[str, str], cause: str, words: str
) -> None:
    with FakeServer(fatal=fatal) as fake:
        record = failure(connecting(fake.url(sslmode="disable")))
    assert record["message"].startswith("Database connection failed after 3 attempts: ")
    assert words in record["message"]
    assert record["cause"] == cause
    assert fake.connections == 3


def test_a_server_that_closes_the_connection(connecting: Callable[..., Run]) -> None:
    with FakeServer() as fake:
        record = failure(connecting(fake.url(sslmode="disable")))
    assert record["cause"] == "closed"
    assert fake.connections == 3


def test_too_many_clients_has_a_budget_of_its_own(connecting: Callable[..., Run]) -> None:
    """It is the lock timeout: replicas waiting for a connection are, in effect, waiting for the lock."""
    with FakeServer(fatal=("53300", "sorry, too many clients already")) as fake:
        began = time.monotonic()
        record = failure(connecting(fake.url(sslmode="disable"), {"MIGRATION_LOCK_TIMEOUT_MS": "1000"}))
        took = time.monotonic() - began
    assert record["cause"] == "too_many_clients"
    assert "too many clients" in record["message"]
    assert fake.connections > 3
    assert 1 <= took < 1 + 3 * 2 + 0.06 + 2


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """Return a server that only accepts the role `app` with the password `right`."""
    with Server(hba=["host all app,limited 127.0.0.1/32 scram-sha-256", "host all turned_away all reject"]) as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE app LOGIN PASSWORD 'right'")
            connection.execute("CREATE ROLE limited LOGIN PASSWORD 'right' CONNECTION LIMIT 0")
            connection.execute("CREATE ROLE turned_away LOGIN")
            connection.execute("CREATE ROLE nologin")
            connection.execute("CREATE DATABASE full_house CONNECTION LIMIT 0")
        yield server


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("user", "password", "dbname", "cause", "words", "tried"),
    [
        ("app", "Quokka", "postgres", "wrong_password", "wrong user or password", 3),
        ("app", None, "postgres", "no_password", "asked for a password and none was given", 1),
        ("nobody", None, "postgres", "no_such_role", "no such user", 3),
        ("nologin", None, "postgres", "not_permitted", "may not connect", 1),
        ("turned_away", None, "postgres", "not_permitted", "may not connect", 1),
        ("app", "right", "nowhere", "no_such_database", "no such database", 3),
        ("limited", "right", "postgres", "too_many_clients", "too many clients", None),
        ("app", "right", "full_house", "too_many_clients", "too many clients", None),
    ],
)
def test_what_a_real_server_says(
    strict_server: Server,
    connecting: Callable[..., Run],
    user: str,
    password: str | None,
    dbname: str,
    cause: str,
    words: str,
    tried: int | None,
) -> None:
    mark = strict_server.log_size()
    url = strict_server.url(dbname, user=user, password=password, sslmode="disable", gssencmode="disable")
    run = connecting(url, {"MIGRATION_LOCK_TIMEOUT_MS": "200"})
    record = failure(run)
    assert record["cause"] == cause
    assert words in record["message"]
    made = len(run.logs("database.retry")) + 1
    prefix = "Database connection failed: " if made == 1 else f"Database connection failed after {made} attempts: "
    assert record["message"].startswith(prefix)
    if tried is not None:
        assert made == tried
        # Without a password, the client hangs up.
        assert strict_server.log_text(mark).count("FATAL:") == (0 if cause == "no_password" else tried)


def test_a_missing_root_certificate(connecting: Callable[..., Run], tmp_path: Path) -> None:
    with FakeServer(tls=True) as fake:
        url = fake.url(sslmode="verify-full", sslrootcert=str(tmp_path / "no-such.crt"))
        record = failure(connecting(url))
    assert record["cause"] == "certificate"
    assert "no-such.crt" in record["message"]
    assert fake.connections == 1


def test_a_missing_default_root_certificate(connecting: Callable[..., Run], tmp_path: Path) -> None:
    with FakeServer(tls=True) as fake:
        record = failure(connecting(fake.url(sslmode="verify-full"), {"HOME": str(tmp_path)}))
    assert record["cause"] == "certificate"
    assert "root.crt" in record["message"]
    assert fake.connections == 1


def test_a_server_without_tls(connecting: Callable[..., Run]) -> None:
    with FakeServer(fatal=("57P03", "the database system is starting up")) as fake:
        record = failure(connecting(fake.url(sslmode="require")))
    assert record["cause"] == "certificate"
    assert fake.connections == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://app@127.0.0.1:not-a-port/shop",
        "postgresql://app@127.0.0.1:99999/shop",
        "postgresql://app@127.0.0.1/shop?no_such_option=1",
        "postgresql://app@127.0.0.1/shop?sslmode=sometimes",
        "postgresql://app@127.0.0.1/shop?target_session_attrs=best",
        "postgresql://app:100%@127.0.0.1/shop",
        "postgresql://app@[::1/shop",
        "mysql://app@127.0.0.1/shop",
        "127.0.0.1:5432/shop",
        "host=127.0.0.1 dbname",
        "host=127.0.0.1 dbname='shop",
        "no_such_option=1",
    ],
)
def test_a_malformed_address_is_not_tried_again(connecting: Callable[..., Run], address: str) -> None:
    run = connecting(address)
    assert run.code == 0, run.report()
    assert run.stdout.startswith("failed|"), run.report()
    (record,) = [record for record in run.logs() if record["level"] == "error"]
    assert record["remedy"]
    assert "after" not in record["message"]
    assert run.logs("database.retry") == []
    command = connecting(address, command=("status",))
    assert command.code == 78, command.report()


@pytest.mark.thorough
@pytest.mark.parametrize("host", ["certificate-db.invalid", "root.crt.invalid"])
def test_a_host_whose_name_sounds_like_a_cause(connecting: Callable[..., Run], host: str) -> None:
    record = failure(connecting(f"postgresql://somebody@{host}/shop"))
    assert record["cause"] == "unknown_host"
    assert record["message"].startswith("Database connection failed after 3 attempts: ")


def test_libpqs_own_variables(connecting: Callable[..., Run]) -> None:
    port = free_port()
    record = failure(connecting(None, {"PGHOST": HOST, "PGPORT": str(port), "PGUSER": "app"}))
    assert record["cause"] == "refused"
    assert str(port) in record["message"]


# --- How often and how long -----------------------------------------------------------------------------


@pytest.mark.case("D8")
@pytest.mark.parametrize(
    ("attempts", "words"), [(1, "1 attempt"), (2, "2 attempts"), (4, "4 attempts"), (5, "5 retries")]
)
def test_the_number_of_attempts(connecting: Callable[..., Run], attempts: int, words: str) -> None:
    """Five is the default, and its message is documented."""
    with FakeServer(fatal=("57P03", "the database system is starting up")) as fake:
        run = connecting(fake.url(sslmode="disable"), {"DB_CONNECT_ATTEMPTS": str(attempts)})
    assert fake.connections == attempts
    assert f"Database connection failed after {words}: the server is starting up" in failure(run)["message"]


def test_commands_exit_with_69(connecting: Callable[..., Run]) -> None:
    url = f"postgresql://somebody@{HOST}:{free_port()}/shop"
    for command in (("migrate",), ("migrate", "--dry-run"), ("status",), ("version",)):
        run = connecting(url, {"DB_CONNECT_ATTEMPTS": "1"}, command=command)
        assert run.code == 69, run.report()
        assert "Database connection failed after 1 attempt" in run.stderr
        assert run.stdout == ""
    exiting = connecting(url, {"DB_CONNECT_ATTEMPTS": "1", "MIGRATION_ON_FAILURE": "exit"})
    assert exiting.code == 69
    assert exiting.stdout == ""


@pytest.mark.parametrize("parameter", ["", "&connect_timeout=60"])
def test_a_server_that_accepts_and_never_answers(connecting: Callable[..., Run], parameter: str) -> None:
    """Promise 5, with small numbers: attempts times timeout + backoffs + 2 s."""
    timing = {"DB_CONNECT_ATTEMPTS": "3", "DB_CONNECT_TIMEOUT_MS": "400", "DB_CONNECT_BACKOFF_MS": "100"}
    with FakeServer(silent=True) as fake:
        began = time.monotonic()
        run = connecting(fake.url(sslmode="disable") + parameter, timing)
        took = time.monotonic() - began
        assert fake.connections == 3
    record = failure(run)
    assert record["cause"] == "timeout"
    assert "Database connection failed after 3 attempts: no answer in time" in record["message"]
    assert 3 * 0.4 + 0.05 + 0.1 <= took < 3 * 0.4 + 0.1 + 0.2 + 2


@pytest.mark.thorough
def test_several_hosts_that_never_answer(connecting: Callable[..., Run]) -> None:
    """The timeout is for a whole attempt, however many hosts it tries."""
    timing = {"DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_TIMEOUT_MS": "500", "DB_CONNECT_BACKOFF_MS": "100"}
    with FakeServer(silent=True) as one, FakeServer(silent=True) as two, FakeServer(silent=True) as three:
        ports = ",".join(str(fake.port) for fake in (one, two, three))
        conninfo = f"host={HOST},{HOST},{HOST} port={ports} user=a dbname=b sslmode=disable gssencmode=disable"
        began = time.monotonic()
        failure(connecting(conninfo, timing))
        assert time.monotonic() - began < 2 * 0.5 + 0.1 + 2


def test_a_second_host_that_answers_is_reached(
    connecting: Callable[..., Run], database: Database, server: Server
) -> None:
    with FakeServer(fatal=("57P03", "the database system is starting up")) as fake:
        conninfo = f"host={HOST},{HOST} port={fake.port},{server.port} user=postgres dbname={database.name}"
        run = connecting(f"{conninfo} sslmode=disable gssencmode=disable")
    assert run.stdout.startswith("up_to_date|"), run.report()


def test_a_server_that_freezes_after_the_login(
    connecting: Callable[..., Run], server: Server, database: Database, migrations_dir: Path
) -> None:
    """Promise 5 for a start that connects and then gets no answer: the survey is bounded too."""
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    with Proxy(server.port) as proxy:
        proxy.when_client_sends(b"c.relkind", Proxy.deafen, deliver=False)
        began = time.monotonic()
        run = connecting(database.url_at(proxy.port), {"DB_CONNECT_ATTEMPTS": "1"})
        took = time.monotonic() - began
    assert run.code == 0, run.report()
    assert run.stdout.startswith("failed|"), run.report()
    assert took < 2 + 2, "as long as an attempt's time-out, and 2 s"


def test_a_server_that_comes_up_late(run_entrypoint: Start, fresh_server: ServerFactory, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    server = fresh_server()
    url = server.url()
    server.stop()
    run = run_entrypoint(
        *APPLICATION, env={"DATABASE_URL": url, "DB_CONNECT_ATTEMPTS": "50", "DB_CONNECT_BACKOFF_MS": "50"}
    )
    run.until("database.retry")
    server.start()
    run.ok()
    assert run.stdout.startswith("migrated|1|")
    assert Database(server, "postgres").exists("thing")


# --- Servers that accept no writes ----------------------------------------------------------------------


def make_read_only(database: Database, kind: str) -> None:
    if kind == "standby":
        database.server.stop()
        database.server.start(standby=True)
    else:
        database.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')


@pytest.mark.parametrize("kind", [pytest.param("standby", marks=pytest.mark.thorough), "read-only"])
def test_a_server_that_accepts_no_writes(
    connecting: Callable[..., Run],
    fresh_server: ServerFactory,
    database: Database,
    migrations_dir: Path,
    kind: str,
) -> None:
    target = Database(fresh_server(), "postgres") if kind == "standby" else database
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    assert connecting(target.url, command=("migrate",)).code == 0
    make_read_only(target, kind)

    fast = connecting(target.url)
    assert fast.stdout.startswith("up_to_date|1|"), fast.report()
    assert not [record for record in fast.logs() if record["level"] in ("warning", "error")]
    status = connecting(target.url, command=("status",))
    assert status.code == 0, status.report()

    write_migrations(migrations_dir, {"002_other.sql": "CREATE TABLE other ();"})
    pending = connecting(target.url)
    assert pending.code == 0, pending.report()
    assert pending.stdout.startswith("failed|"), pending.report()
    (record,) = pending.logs("database.read_only")
    assert ("standby" if kind == "standby" else "read-only") in record["message"]
    assert "MIGRATION_DATABASE_URL" in record["remedy"]
    assert not target.exists("other")
    assert target.one("SELECT array_agg(migration_number) FROM schema_migrations") == [1]
    assert connecting(target.url, {"MIGRATION_ON_FAILURE": "exit"}).code == 69
    assert connecting(target.url, command=("migrate",)).code == 69
    assert connecting(target.url, command=("version",)).stdout == "1\n"


def test_an_empty_read_only_database(connecting: Callable[..., Run], database: Database, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    make_read_only(database, "read-only")
    run = connecting(database.url)
    assert run.logs("database.read_only"), run.report()
    assert not database.exists("schema_migrations")
    assert not database.exists("thing")


def test_an_earlier_systems_ledger_on_a_read_only_database(
    connecting: Callable[..., Run], database: Database, migrations_dir: Path
) -> None:
    """It would normally be upgraded, but nothing is pending, so that is no reason to fail."""
    database.execute((LEGACY / "schema.sql").read_text())
    database.execute("INSERT INTO schema_migrations (migration_number, filename) VALUES (1, '001_thing.sql')")
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    make_read_only(database, "read-only")
    run = connecting(database.url)
    assert run.stdout.startswith("up_to_date|1|"), run.report()


def test_no_host_that_accepts_writes(connecting: Callable[..., Run], database: Database) -> None:
    make_read_only(database, "read-only")
    record = failure(connecting(f"{database.url}?target_session_attrs=read-write"))
    assert record["cause"] == "no_primary"


def test_migrations_go_to_their_own_address(
    connecting: Callable[..., Run], database: Database, migrations_dir: Path, tmp_path: Path
) -> None:
    write_migrations(migrations_dir, {"001_thing.sql": "CREATE TABLE thing ();"})
    secret = tmp_path / "url"
    secret.write_text(f"  {database.url}\n")
    run = connecting(f"postgresql://{HOST}:{free_port()}/x", {"MIGRATION_DATABASE_URL_FILE": str(secret)})
    assert run.stdout.startswith("migrated|1|"), run.report()
    assert database.exists("thing")


def test_an_address_that_nobody_has_set_is_told(run_entrypoint: Callable[..., Run], migrations_dir: Path) -> None:
    del migrations_dir  # creates it, empty
    run = run_entrypoint("migrate", env={"DB_CONNECT_ATTEMPTS": "1"})
    assert run.wait() == 69
    assert "DATABASE_URL is not set" in run.stderr
