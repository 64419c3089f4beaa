"""The end of the service: within two seconds of a signal, whatever clients are connected, and also as pid 1."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from demo.postgres import HOST, free_port
from kit.processes import Run, descendants, until
from kit.web import STATUS, TOKEN, Serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from kit.databases import Database

    Serve = Callable[..., Serving]

PROMISE = 2.0
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture(autouse=True)
def _migrations(migrations_dir: Path) -> None:
    (migrations_dir / "0001_a.sql").write_text("CREATE TABLE a ();")


def end(serving: Serving, number: signal.Signals = signal.SIGTERM) -> float:
    """Send a signal, and return how many seconds the process took to end."""
    began = time.monotonic()
    serving.run.kill(number)
    serving.run.wait(10)
    return time.monotonic() - began


@BOTH
def test_an_orderly_end(database: Database, serve: Serve, number: signal.Signals) -> None:
    serving = serve(database.url)
    serving.ask()
    assert end(serving, number) < PROMISE
    assert serving.run.code == 0
    assert serving.run.logs("service.stopping")[0]["message"] == f"{number.name}: stopping"
    assert not [record for record in serving.run.logs() if record["level"] in {"warning", "error"}]
    with pytest.raises(ConnectionRefusedError):
        serving.connect()


def test_clients_that_hang_on_do_not_hold_it_up(
    fresh_server: ServerFactory, serve: Serve, migrations_dir: Path
) -> None:
    """One sent half a request, one keeps its connection, one does not read, one waits for a frozen database."""
    for number in range(2, 1500):
        (migrations_dir / f"{number:04d}_{'long_name_' * 15}.sql").write_text("")
    server = fresh_server()
    server.create_database("shop")
    serving = serve(server.url("shop"))
    request = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        half, kept = (stack.enter_context(serving.connect()) for _ in range(2))
        half.sendall(request[:30])
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        deaf = stack.enter_context(socket.socket())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((HOST, serving.port))
        deaf.sendall(request * 20)
        until(lambda: serving.run.logs("service.request"), what="a request that is answered")
        server.freeze()
        try:
            time.sleep(1.1)  # so that nothing is cached any more
            waiting = stack.enter_context(serving.connect())
            waiting.sendall(request)
            time.sleep(0.3)
            assert end(serving) < PROMISE
        finally:
            server.thaw()
    assert serving.run.code == 0


def test_a_request_that_is_being_answered_gets_its_answer(database: Database, serve: Serve) -> None:
    """The database takes a moment, and the signal arrives meanwhile."""
    serving = serve(database.url)
    with database.connect() as locker:
        database.execute(
            "CREATE TABLE schema_migrations (migration_number int PRIMARY KEY, filename text, applied_at timestamp)"
        )
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE schema_migrations")
        with serving.connect() as client:
            client.sendall(f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            waits = "SELECT FROM pg_locks WHERE relation = 'schema_migrations'::regclass AND NOT granted"
            until(lambda: locker.execute(waits).fetchall(), what="the service at the lock")
            serving.run.terminate()
            serving.run.until("service.stopping")
            locker.execute("ROLLBACK")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert serving.run.wait(5) == 0


@pytest.mark.thorough
def test_a_second_signal_ends_it_at_once(fresh_server: ServerFactory, serve: Serve) -> None:
    server = fresh_server()
    server.create_database("shop")
    serving = serve(server.url("shop"))
    with serving.connect() as client:
        server.freeze()
        try:
            client.sendall(f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            time.sleep(0.3)
            serving.run.terminate()
            serving.run.until("service.stopping")
            serving.run.kill(signal.SIGINT)
            assert serving.run.wait(1) == 130
        finally:
            server.thaw()


def test_as_pid_1(database: Database, run_program: Callable[..., Run]) -> None:
    """There, a signal without a handler would be ignored."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        missing("no permission to make a pid namespace (unshare --pid)")
    port = free_port()
    run = run_program(
        [*unshare, sys.executable, "-m", "entrypoint", "serve"],
        env={"DATABASE_URL": database.url, "STATUS_PORT": str(port), "STATUS_TOKEN": TOKEN},
    )
    run.until("service.listening")
    serving = Serving(run, port)
    assert serving.ask().status == 200
    (inner,) = descendants(run.pid)
    began = time.monotonic()
    os.kill(inner, signal.SIGTERM)
    assert run.wait(5) == 0
    assert time.monotonic() - began < PROMISE
