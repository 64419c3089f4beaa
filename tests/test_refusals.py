"""Why there is no connection, told from the SQLSTATE, whatever the language of the server."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from scene import only_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run


@contextlib.contextmanager
def refusing(code: str, said: str) -> Iterator[int]:
    """Serve what speaks as much of PostgreSQL's protocol as it takes to refuse everybody; return its port."""
    fields = {"S": "FATAL", "V": "FATAL", "C": code, "M": said, "F": "proc.c", "L": "361", "R": "InitProcess"}
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


def test_a_role_that_is_read_only_by_default(
    database: Database, run_entrypoint: Callable[..., Run], migrations_dir: Path
) -> None:
    (migrations_dir / "001_a.sql").write_text("SELECT 1")
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    run = run_entrypoint("migrate", env={"DATABASE_URL": database.url})
    assert run.wait() == 69, run.report()
    remedy = only_error(run)["remedy"]
    assert "ALTER DATABASE name RESET" in remedy
    assert "ALTER ROLE name RESET default_transaction_read_only" in remedy
    assert "target_session_attrs" not in remedy
