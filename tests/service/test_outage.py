"""The database is gone, frozen, silent or closed to us: the service says so in bounded time, and recovers by itself."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST, free_port
from kit.migrations import non_idempotent, write_migrations
from kit.processes import until
from scene import lock_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from kit.databases import Database
    from kit.proxy import Proxy
    from kit.web import Answer, Serving

    Serve = Callable[..., Serving]

PASSWORD = "correct-horse@1"
# DB_CONNECT_TIMEOUT_MS, then reading, then what a busy machine adds.
SHORT = {"DB_CONNECT_TIMEOUT_MS": "1000"}
BOUND = 1 + 3.5 + 1.5


@pytest.fixture(autouse=True)
def _migrations(migrations_dir: Path) -> None:
    write_migrations(migrations_dir, non_idempotent(1))


def is_failure(answer: Answer, words: str) -> None:
    """Check that an answer is the one documented for a failure, without a secret in it."""
    assert answer.status == 500, answer
    found = answer.json
    assert found["success"] is False
    assert words in found["error"], found
    assert found["remedy"]
    assert "data" not in found
    assert b"correct" not in answer.body
    assert b"horse" not in answer.body


def is_known_everywhere(serving: Serving) -> None:
    """Check how the rest of the service reports that the database is gone."""
    assert serving.ask("/livez").status == 200, "the service itself is well"
    assert serving.ask("/readyz").status == 503
    assert serving.ask("/readyz").json == {"status": "not ready"}
    badge = serving.ask("/badge.svg")
    assert badge.status == 200
    assert b">unknown<" in badge.body
    metrics = serving.ask("/metrics")
    assert metrics.status == 200
    assert b"pg_entrypoint_up{database=" in metrics.body
    assert b"} 0.0\n" in metrics.body
    assert b"pg_entrypoint_schema_version" not in metrics.body


def test_a_server_that_is_stopped_and_started_again(fresh_server: ServerFactory, serve: Serve) -> None:
    server = fresh_server()
    server.create_database("shop")
    serving = serve(server.url("shop"))
    assert serving.data()["pendingMigrations"] == 1
    for mode in ("fast", "immediate"):
        server.stop(mode)
        is_failure(serving.until_answer(500), "connection refused")
        is_known_everywhere(serving)
        server.start()
        serving.until_answer(200, "/readyz")
        assert serving.data()["pendingMigrations"] == 1
    events = serving.run.events()
    assert events.count("database.unavailable") == 2, "not every second"
    assert events.count("service.recovered") == 2


@pytest.mark.thorough
def test_a_restart_between_two_questions_is_nobodys_business(fresh_server: ServerFactory, serve: Serve) -> None:
    """The old connection is gone; the same answer is read over a new one."""
    server = fresh_server()
    server.create_database("shop")
    serving = serve(server.url("shop"))
    first = serving.data()["takenAt"]
    server.stop("fast")
    server.start()
    assert serving.data_when(lambda data: data["takenAt"] != first)
    assert "database.unavailable" not in serving.run.events()


@pytest.mark.thorough
def test_it_starts_before_the_database(fresh_server: ServerFactory, serve: Serve) -> None:
    server = fresh_server()
    server.create_database("shop")
    url = server.url("shop")
    server.stop()
    serving = serve(url)
    is_failure(serving.ask(), "connection refused")
    is_known_everywhere(serving)
    server.start()
    serving.until_answer(200)


def test_a_frozen_server_holds_nobody_up(fresh_server: ServerFactory, serve: Serve) -> None:
    """SIGSTOP: it accepts connections and says nothing, on the open connection or on new ones."""
    server = fresh_server()
    server.create_database("shop")
    serving = serve(server.url("shop"), **SHORT)
    fresh = serving.data()["takenAt"]
    server.freeze()
    answer = serving.until_answer(500)
    is_failure(answer, "no answer within")
    for _ in range(3):
        answer = serving.ask()
        assert answer.seconds < BOUND
        assert serving.ask("/livez").seconds < 1
        assert answer.status == 500, "what was known before is not given out again"
    server.thaw()
    assert serving.until_answer(200).json["data"]["takenAt"] > fresh


@pytest.mark.thorough
def test_a_silent_address_holds_nobody_up(serve: Serve) -> None:
    """It accepts connections and never answers. Whoever asks meanwhile waits for the same attempt, and no longer."""
    with socket.create_server((HOST, 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        serving = serve(f"postgresql://shop:{PASSWORD.replace('@', '%40')}@{HOST}:{port}/shop", **SHORT)
        for _ in range(2):
            answer = serving.ask()
            is_failure(answer, "no answer within 1 s")
            assert answer.seconds < BOUND


@pytest.mark.thorough
def test_a_link_that_goes_deaf_and_hears_again(database: Database, proxy: Proxy, serve: Serve) -> None:
    serving = serve(database.url_at(proxy.port), **SHORT)
    serving.data()
    proxy.deafen()
    is_failure(serving.until_answer(500), "no answer within")
    proxy.hear()
    serving.until_answer(200)
    proxy.cut()
    serving.data_when(lambda _: True)


@pytest.mark.thorough
def test_an_unknown_host(serve: Serve) -> None:
    answer = serve("postgresql://shop@no-such-host.invalid/shop").ask()
    is_failure(answer, "unknown host")


@pytest.mark.thorough
def test_a_wrong_password_and_then_the_right_one(fresh_server: ServerFactory, serve: Serve) -> None:
    server = fresh_server(hba=["host all shop 127.0.0.1/32 scram-sha-256"])
    with server.connect() as connection:
        connection.execute(f"CREATE ROLE shop LOGIN PASSWORD 'another-{PASSWORD}'".encode())
    server.create_database("shop")
    url = f"postgresql://shop:{PASSWORD.replace('@', '%40')}@{HOST}:{server.port}/shop"
    serving = serve(url, LOG_LEVEL="debug")
    is_failure(serving.ask(), "wrong user or password")
    is_known_everywhere(serving)
    with server.connect() as connection:
        connection.execute(f"ALTER ROLE shop PASSWORD '{PASSWORD}'".encode())
    serving.until_answer(200)
    assert "horse" not in serving.run.stderr


@pytest.mark.thorough
def test_a_database_that_is_dropped_and_made_again(fresh_server: ServerFactory, serve: Serve) -> None:
    server = fresh_server()
    server.create_database("shop")
    serving = serve(server.url("shop"))
    serving.data()
    server.drop_database("shop")
    is_failure(serving.until_answer(500), "no such database")
    server.create_database("shop")
    serving.until_answer(200)


def test_a_ledger_that_somebody_has_locked(database: Database, serve: Serve) -> None:
    """It does not queue behind a lock for long, because others would queue behind it."""
    database.execute(
        "CREATE TABLE schema_migrations (migration_number integer PRIMARY KEY, filename text, applied_at timestamp)"
    )
    serving = serve(database.url)
    serving.data()
    with database.connect() as locker:
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE schema_migrations")
        answer = serving.until_answer(500)
        assert answer.seconds < BOUND
        # Two of the server's timeouts and one of ours run out at the same time.
        assert any(words in answer.json["error"] for words in ("is locked by", "statement timeout", "no answer within"))
        locker.execute("ROLLBACK")
    serving.until_answer(200)


def test_looking_does_not_touch_the_migration_lock(database: Database, serve: Serve) -> None:
    serving = serve(database.url)
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({lock_key()})")
        assert serving.data()["status"] == "pending"
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        assert not holder.execute(waiting).fetchall()


def test_one_connection_and_none_is_left(fresh_server: ServerFactory, serve: Serve) -> None:
    server = fresh_server()
    server.create_database("shop")
    from kit.databases import Database

    database = Database(server, "shop")
    serving = serve(server.url("shop"))
    for _ in range(5):
        serving.ask()
    assert database.sessions() == 1
    serving.run.terminate()
    serving.run.ok()
    until(lambda: database.sessions() == 0, what="the end of its session")


@pytest.mark.thorough
def test_a_port_where_nobody_listens(serve: Serve) -> None:
    answer = serve(f"postgresql://shop@{HOST}:{free_port()}/shop").ask()
    is_failure(answer, "connection refused")
    assert answer.seconds < BOUND
