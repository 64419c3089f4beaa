"""Through PgBouncer in transaction mode, by the same code; and what is said where that cannot work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from conftest import missing
from kit.databases import server_errors
from kit.migrations import non_idempotent, write_migrations
from kit.pooler import executable, pooler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Run


@pytest.fixture
def small_pool(server: Server) -> Iterator[int]:
    """Return the port of a pooler with two server connections: as few as the holder can do with."""
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    with pooler(server, pool_size=2) as port:
        yield port


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
        # Both server connections of the pool, by keeping two transactions open at a time.
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
    assert "The pooler gave us no second server connection" in run.stderr
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
        # The way that is named.
        run_entrypoint(
            "migrate", env={"DATABASE_URL": database.url_at(port), "MIGRATION_DATABASE_URL": database.url}
        ).ok()


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
