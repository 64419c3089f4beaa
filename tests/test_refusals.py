"""Why a connection was refused: read from the SQLSTATE, so the server's language does not matter."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from scene import only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run


@contextlib.contextmanager
def refusing(code: str, said: str, file: str = "proc.c") -> Iterator[int]:
    """Speak just enough of PostgreSQL's protocol to refuse everybody, and yield the port."""
    fields = {"S": "FATAL", "V": "FATAL", "C": code, "M": said, "F": file, "L": "361", "R": "InitProcess"}
    body = b"".join(f"{name}{value}\0".encode() for name, value in fields.items()) + b"\0"
    answer = b"E" + (len(body) + 4).to_bytes(4, "big") + body

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(5)
                client.recv(4096)
                client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(6)


@pytest.mark.sampled(7)
@pytest.mark.case("D1")
@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize(
    ("code", "said", "cause"),
    [
        ("57P03", "das Datenbanksystem startet", "starting_up"),
        ("28P01", "Passwort-Authentifizierung fehlgeschlagen", "wrong_password"),
        ("28000", "kein pg_hba.conf-Eintrag", "not_permitted"),
        ("3D000", "Datenbank existiert nicht", "no_such_database"),
        ("57P01", "Verbindung wird abgebrochen", "shutting_down"),
        ("42501", "keine Berechtigung", "not_permitted"),
        ("53300", "tut mir leid, schon zu viele Verbindungen", "too_many_clients"),
    ],
)
def test_a_refusal_in_german(
    run_entrypoint: Callable[..., Run], migrations_dir: Path, code: str, said: str, cause: str, attempts: int
) -> None:
    """The first attempt is made without psycopg, the others with it."""
    (migrations_dir / "001_a.sql").write_text("SELECT 1")
    with refusing(code, said) as port:
        environment = {
            "DATABASE_URL": f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable",
            "DB_CONNECT_ATTEMPTS": str(attempts),
            "DB_CONNECT_BACKOFF_MS": "50",
            "MIGRATION_LOCK_TIMEOUT_MS": "1000",
        }
        run = run_entrypoint("migrate", env=environment)
        assert run.wait() == 69, run.report()
    error = only_error(run)
    assert error["cause"] == cause, error
    assert said in error["message"]
    assert code not in error["message"]
    assert "proc.c" not in error["message"]
    if cause == "too_many_clients":
        retries = run.logs("database.retry")
        assert len(retries) > attempts
        assert "attempt 0" not in retries[0]["message"]


@pytest.mark.case("D2")
def test_an_unknown_service_is_not_tried_again(run_entrypoint: Callable[..., Run], migrations_dir: Path) -> None:
    (migrations_dir / "001_a.sql").write_text("SELECT 1")
    run = run_entrypoint("migrate", env={"DATABASE_URL": "postgresql:///?service=nobody"})
    assert run.wait() == 69, run.report()
    assert only_error(run)["cause"] == "service"
    assert not run.logs("database.retry")


OPTIONS = {
    "unknown": ("-cno_such_parameter%3D1", "no_such_parameter"),
    "a bad value": ("-cwork_mem%3Dplenty", "work_mem"),
    "not for a session": ("-cshared_buffers%3D1GB", "shared_buffers"),
    "not for this user": ("-clog_statement%3Dall", "log_statement"),
    "no option": ("--nonsense", "nonsense"),
}


@pytest.mark.sampled(4)
@pytest.mark.case("D2")
@pytest.mark.parametrize("command", ["migrate", "status", "wait"])
@pytest.mark.parametrize(("options", "named"), OPTIONS.values(), ids=OPTIONS.keys())
def test_an_option_that_the_server_does_not_take(
    any_database: Database,
    run_entrypoint: Callable[..., Run],
    migrations_dir: Path,
    options: str,
    named: str,
    command: str,
) -> None:
    """`migrate` makes its first attempt without psycopg."""
    (migrations_dir / "001_a.sql").write_text("SELECT 1")
    login = f"nobody_{any_database.name}"[:60]
    any_database.execute(f"CREATE ROLE {login} LOGIN")
    try:
        url = any_database.server.url(any_database.name, user=login)
        run = run_entrypoint(command, env={"DATABASE_URL": f"{url}?options={options}"})
        assert run.wait() == 78, run.report()
    finally:
        any_database.execute(f"DROP ROLE {login}")
    error = only_error(run)
    assert error["event"] == "configuration.invalid"
    assert error["cause"] == "option"
    assert named in error["message"]
    assert "`options`" in error["remedy"]
    assert not run.logs("database.retry")


@pytest.mark.sampled(2)
@pytest.mark.case("D1", "D2")
@pytest.mark.parametrize(
    ("code", "said", "file"),
    [
        ("42704", "unbekannter Konfigurationsparameter »foo«", "guc.c"),
        ("22023", "ungültiger Wert für Parameter »foo«: »bar«", "../src/backend/utils/misc/guc.c"),
        ("55P02", "Parameter »foo« kann jetzt nicht geändert werden", "guc.c"),
        ("42501", "keine Berechtigung, um Parameter »foo« zu setzen", "guc.c"),
        ("42501", "keine Berechtigung, um Parameter »foo« zu setzen", "guc_funcs.c"),
        ("42601", "ungültiges Kommandozeilenargument für Serverprozess: --foo", "postgres.c"),
    ],
)
def test_an_option_in_german(
    run_entrypoint: Callable[..., Run], migrations_dir: Path, code: str, said: str, file: str
) -> None:
    (migrations_dir / "001_a.sql").write_text("SELECT 1")
    with refusing(code, said, file) as port:
        url = f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable&gssencmode=disable"
        run = run_entrypoint("migrate", env={"DATABASE_URL": url})
        assert run.wait() == 78, run.report()
    assert "foo" in only_error(run)["message"]
    assert not run.logs("database.retry")


REQUIREMENTS = {
    "an authentication that is not asked for": ("require_auth=scram-sha-256", "require_auth"),
    "an encryption that nobody has": ("gssencmode=require", "gssencmode"),
}


@pytest.mark.case("D2")
@pytest.mark.parametrize(("parameter", "cause"), REQUIREMENTS.values(), ids=REQUIREMENTS.keys())
def test_a_requirement_that_cannot_be_met_is_not_tried_again(
    database: Database, run_entrypoint: Callable[..., Run], migrations_dir: Path, parameter: str, cause: str
) -> None:
    (migrations_dir / "001_a.sql").write_text("SELECT 1")
    run = run_entrypoint("migrate", env={"DATABASE_URL": f"{database.url}?{parameter}"})
    assert run.wait() == 69, run.report()
    assert only_error(run)["cause"] == cause
    assert not run.logs("database.retry")


@pytest.mark.case("D2")
def test_a_session_for_replication_is_not_asked_for(
    database: Database, run_entrypoint: Callable[..., Run], migrations_dir: Path
) -> None:
    (migrations_dir / "001_a.sql").write_text("CREATE TABLE a (i integer)")
    for value in ("true", "database"):
        run_entrypoint("migrate", env={"DATABASE_URL": f"{database.url}?replication={value}"}).ok()
    assert database.exists("a")


CLOSED = {
    "to all": ('ALTER DATABASE "{0}" ALLOW_CONNECTIONS false', "database_closed", "ALLOW_CONNECTIONS true"),
    "to this user": (
        'REVOKE CONNECT ON DATABASE "{0}" FROM PUBLIC',
        "not_permitted",
        'GRANT CONNECT ON DATABASE "{0}" TO',
    ),
    "beyond the role's limit": (
        'ALTER ROLE "{1}" CONNECTION LIMIT 0',
        "too_many_clients",
        'ALTER ROLE "{1}" CONNECTION LIMIT',
    ),
    "beyond the database's limit": (
        'ALTER DATABASE "{0}" CONNECTION LIMIT 0',
        "too_many_clients",
        'ALTER DATABASE "{0}" CONNECTION LIMIT',
    ),
}


@pytest.mark.case("D9", "D1", "D2")
@pytest.mark.parametrize(("statement", "cause", "remedy"), CLOSED.values(), ids=CLOSED.keys())
def test_a_closed_door_is_named_with_what_opens_it(
    any_database: Database,
    run_entrypoint: Callable[..., Run],
    migrations_dir: Path,
    statement: str,
    cause: str,
    remedy: str,
) -> None:
    (migrations_dir / "001_a.sql").write_text("SELECT 1")
    name, login = any_database.name, f"nobody_{any_database.name}"[:60]
    any_database.execute(f"CREATE ROLE {login} LOGIN")
    try:
        with psycopg.connect(any_database.server.url("postgres"), autocommit=True) as other:
            other.execute(statement.format(name, login))
        run = run_entrypoint(
            "migrate",
            env={
                "DATABASE_URL": any_database.server.url(name, user=login),
                "MIGRATION_LOCK_TIMEOUT_MS": "300",
                "DB_CONNECT_BACKOFF_MS": "50",
            },
        )
        assert run.wait() == 69, run.report()
    finally:
        with psycopg.connect(any_database.server.url("postgres"), autocommit=True) as other:
            other.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            other.execute(f"DROP ROLE {login}")
    error = only_error(run)
    assert error["cause"] == cause
    assert remedy.format(name, login) in error["remedy"]
    assert bool(run.logs("database.retry")) == (cause == "too_many_clients")
