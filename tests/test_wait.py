"""`wait`: for the database, for the schema; it changes nothing."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from conftest import missing, new_database
from demo.postgres import HOST, free_port
from kit.databases import server_errors
from kit.migrations import non_idempotent
from kit.pooler import executable, pooler
from kit.processes import until
from scene import Gate, Scene, only_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

GATED = {"001_a.sql": "CREATE TABLE a ();", "002_wait.sql": Gate.PASS, "003_c.sql": "CREATE TABLE c ();"}


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Start) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


def nobody() -> str:
    return f"postgresql://a@{HOST}:{free_port()}/b"


# --- For the database -----------------------------------------------------------------------------------


def test_for_a_database_that_starts_later(fresh_server: ServerFactory, run_entrypoint: Start) -> None:
    """No migration files are needed."""
    server = fresh_server()
    server.stop()
    environment = {"DATABASE_URL": server.url("postgres"), "DB_CONNECT_ATTEMPTS": "1"}
    run = run_entrypoint("wait", "--for", "database", "--timeout", "60", env=environment)
    said = run.until("wait.waiting")
    assert said["message"].startswith("waiting for the database: no connection yet: ")
    assert said["cause"] == "refused"
    server.start()
    run.ok()
    assert run.logs("wait.over")
    assert run.stdout == ""


def test_for_a_database_that_never_comes(run_entrypoint: Start) -> None:
    for options in (("--for", "database"), ("--version", "1")):
        run = run_entrypoint("wait", *options, "--timeout", "0.7", env={"DATABASE_URL": nobody()})
        assert run.wait() == 69, run.report()
        error = only_error(run)
        said = r"Database connection failed after \d+ attempts? in \d s: connection refused"
        assert re.search(said, error["message"])
        assert error["attempts"] > 1


def test_the_default_is_as_long_as_a_start_tries_to_connect(run_entrypoint: Start) -> None:
    environment = {"DATABASE_URL": nobody(), "DB_CONNECT_ATTEMPTS": "2"}
    environment |= {"DB_CONNECT_TIMEOUT_MS": "100", "DB_CONNECT_BACKOFF_MS": "100"}
    assert run_entrypoint("wait", "--for", "database", env=environment).wait() == 69


def test_what_does_not_heal_is_not_waited_for(scene: Scene) -> None:
    url = re.sub(r"[?].*", "", scene.database.url) + "?sslmode=require"
    run = scene.start("wait", "--for", "database", "--timeout", "600", url=url)
    assert run.wait() == 69, run.report()
    assert only_error(run)["cause"] == "certificate"


# --- For the schema -------------------------------------------------------------------------------------


def test_nothing_to_wait_for(scene: Scene) -> None:
    scene.write(non_idempotent(2))
    scene.migrated()
    run = scene.start("wait", "--timeout", "0").ok()
    assert run.events() == ["wait.over"]
    assert run.logs("wait.over")[0]["version"] == 2
    (scene.migrations / "002_step.sql").unlink()
    scene.start("wait", "--timeout", "0").ok()  # the schema is ahead


def test_until_somebody_has_migrated(scene: Scene) -> None:
    scene.write(GATED)
    waiting = scene.start("wait")
    assert "3 migrations are pending: 001_a.sql is next" in waiting.until("wait.waiting")["message"]
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        by_version = scene.start("wait", "--version", "3", MIGRATIONS_DIR="/nowhere")
        for run, words in ((waiting, "2 migrations are pending"), (by_version, "and should be at version 3")):
            said = run.until(lambda record: record.get("process_id") == working.pid)
            assert said["event"] == "wait.waiting"
            assert said["file"] == "002_wait.sql"
            assert words in said["message"]
            assert "and is running 002_wait.sql" in said["message"]
        # Version 1 is there: its row is committed.
        scene.start("wait", "--version", "1", "--timeout", "0", MIGRATIONS_DIR="/nowhere").ok()
    for run in (working, waiting, by_version):
        run.ok()
    assert scene.ledger() == [(1, "completed"), (2, "completed"), (3, "completed")]


def test_it_never_migrates(scene: Scene) -> None:
    scene.write(non_idempotent(2))
    before = scene.database.contents()
    run = scene.start("wait", "--timeout", "2.5")
    assert run.wait() == 75
    error = only_error(run)
    assert error["event"] == "wait.timeout"
    assert "Waited 2.5 s for the schema: it is empty, and 2 migrations are pending" in error["message"]
    assert "nobody is migrating" in error["message"]
    assert scene.database.contents() == before


def test_the_default_is_as_long_as_the_migrations_may_take(scene: Scene) -> None:
    scene.write(non_idempotent(1))
    run = scene.start("wait", MIGRATION_TIMEOUT_MS="2000")
    assert run.wait() == 75
    assert "Waited 2 s" in only_error(run)["message"]


@pytest.mark.thorough
def test_a_version_without_files(scene: Scene, tmp_path: Path) -> None:
    scene.write(non_idempotent(3))
    scene.migrated()
    codes = {
        number: scene.start("wait", "--version", number, "--timeout", "0", MIGRATIONS_DIR="/nowhere").wait()
        for number in ("0", "002", "3", "4")
    }
    assert codes == {"0": 0, "002": 0, "3": 0, "4": 75}


def test_a_failed_migration_stands_in_the_way(scene: Scene) -> None:
    scene.write(
        {"001_a.sql": "CREATE TABLE a ();", "002_bad.sql": "SELECT nonsense;", "003_c.sql": "CREATE TABLE c ();"}
    )
    scene.migrate()
    for options in ((), ("--version", "3"), ("--version", "2")):
        run = scene.start("wait", *options)
        assert run.wait() == 70, run.report()
        error = only_error(run)
        assert error["event"] == "migration.held_back"
        assert error["file"] == "002_bad.sql"
    scene.start("wait", "--version", "1").ok()
    # A new image's file is different, and may succeed.
    scene.write({"002_bad.sql": "CREATE TABLE b ();"})
    assert scene.start("wait", "--timeout", "0").wait() == 75


@pytest.mark.thorough
def test_a_failed_migration_that_is_tried_again_is_waited_for(scene: Scene) -> None:
    scene.write({"001_bad.sql": "SELECT nonsense;"})
    scene.migrate()
    scene.write({"001_bad.sql": Gate.PASS})
    with Gate(scene.database) as gate:
        working = scene.start("migrate")
        gate.arrival()
        waiting = scene.start("wait", "--version", "1")
        assert waiting.until("wait.waiting")["process_id"] == working.pid
    working.ok()
    waiting.ok()


@pytest.mark.thorough
def test_a_locked_ledger_is_waited_for(scene: Scene) -> None:
    scene.write(non_idempotent(1))
    scene.migrated()
    with scene.database.connect() as holder:
        holder.execute("BEGIN; LOCK TABLE schema_migrations")
        run = scene.start("wait")
        assert "lock timeout" in run.until("wait.waiting")["message"]
        holder.execute("COMMIT")
        run.ok()


@pytest.mark.thorough
def test_the_right_to_read_the_ledger_may_come_later(scene: Scene) -> None:
    scene.write(non_idempotent(1))
    scene.migrated()
    if not scene.database.rows("SELECT FROM pg_roles WHERE rolname = 'reader'"):
        scene.database.execute("CREATE ROLE reader")
    refused = scene.start("wait", "--timeout", "0", MIGRATION_ROLE="reader")
    assert refused.wait() == 70
    assert "permission denied" in only_error(refused)["message"]
    run = scene.start("wait", MIGRATION_ROLE="reader")
    assert "permission denied" in run.until("wait.waiting")["message"]
    scene.database.execute("GRANT SELECT ON schema_migrations, migration_lock TO reader")
    run.ok()


@pytest.mark.thorough
def test_a_schema_that_may_not_be_used_yet(scene: Scene) -> None:
    reader = f"reader_{scene.database.name}"[:60]
    scene.write(non_idempotent(1))
    scene.migrated(MIGRATION_SCHEMA="app")
    scene.database.execute(f"CREATE ROLE {reader} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA app TO {reader}")
    url = scene.database.server.url(scene.database.name, user=reader, options="-c search_path=app,public")
    try:
        refused = scene.start("wait", "--timeout", "0.1", url=url)
        assert refused.wait() == 78, refused.report()
        assert 'GRANT USAGE ON SCHEMA "app"' in only_error(refused)["remedy"]
        run = scene.start("wait", "--timeout", "60", url=url)
        assert "may not use that schema" in run.until("wait.waiting")["message"]
        scene.database.execute(f"GRANT USAGE ON SCHEMA app TO {reader}")
        run.ok()
    finally:
        scene.database.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}")


def test_between_two_looks_it_holds_nothing(scene: Scene) -> None:
    scene.write(non_idempotent(1))
    scene.database.execute("CREATE TABLE big (id int)")
    run = scene.start("wait")
    run.until("wait.waiting")
    ours = "application_name LIKE 'entrypoint:%' AND datname = current_database()"
    sessions = f"SELECT pid, state, backend_xmin, backend_xid, state_change FROM pg_stat_activity WHERE {ours}"
    with scene.database.connect() as watching:
        seen: dict[object, tuple[object, ...]] = {}

        def five_pauses() -> bool:
            (row,) = watching.execute(sessions).fetchall()
            if row[1] == "idle":
                seen[row[-1]] = row
            return len(seen) >= 5

        until(five_pauses, 30, "five pauses between looks")
    assert {row[:4] for row in seen.values()} == {(next(iter(seen.values()))[0], "idle", None, None)}, "one connection"
    run.terminate()
    run.wait()


def test_it_survives_a_restart_and_never_touches_the_lock(
    fresh_server: ServerFactory, migrations_dir: Path, run_entrypoint: Start
) -> None:
    server = fresh_server(log_statement="all")
    with new_database(server) as database:
        scene = Scene(database, migrations_dir, run_entrypoint)
        scene.write(non_idempotent(1))
        run = scene.start("wait")
        run.until("wait.waiting")
        server.stop()
        server.start()
        again = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'entrypoint:%'"
        until(lambda: database.rows(again), 15, "its new connection")
        statements = server.log_text()
        assert "pg_locks" in statements
        assert "pg_try_advisory" not in statements
        scene.migrated()
        run.ok()


@pytest.mark.parametrize("options", [("--for", "database"), ("--for", "schema")], ids=" ".join)
def test_sigterm_ends_it(scene: Scene, options: tuple[str, ...]) -> None:
    scene.write(non_idempotent(1))
    url = nobody() if "database" in options else scene.database.url
    run = scene.start("wait", *options, "--timeout", "600", url=url)
    run.until("wait.waiting")
    sent = time.monotonic()
    run.terminate()
    assert run.wait(10) == 143
    assert time.monotonic() - sent < 2
    assert run.logs("interrupted")
    until(lambda: scene.database.sessions() == 0, what="the end of its session")


@pytest.mark.thorough
def test_through_a_pooler(scene: Scene) -> None:
    if executable() is None:
        missing("no pgbouncer (Debian's package pgbouncer)")
    scene.write(non_idempotent(2))
    with pooler(scene.database.server, pool_size=2) as port:
        url = scene.database.url_at(port)
        scene.start("wait", "--for", "database", url=url).ok()
        run = scene.start("wait", url=url)
        run.until("wait.waiting")
        mark = scene.database.server.log_size()
        scene.migrated(url=url)
        run.ok()
    assert server_errors(scene.database.server, mark) == []


# --- Usage ----------------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--for", "godot"), "godot"),
        (("--for", "database", "--version", "3"), "--version"),
        (("--version", "x"), "x"),
        (("--timeout", "-1"), "--timeout"),
        (("--timeout", "1e3"), "1e3"),
        (("--timeout", "inf"), "inf"),
        (("--timeout", "5s"), "5s"),
        (("now",), "now"),
    ],
)
def test_usage(run_entrypoint: Start, arguments: tuple[str, ...], says: str) -> None:
    run = run_entrypoint("wait", *arguments, env={"DATABASE_URL": nobody()})
    assert run.wait() == 64
    error = only_error(run)
    assert says in error["message"]
    assert "entrypoint" in error["remedy"]


def test_files_and_settings_that_cannot_be_used(scene: Scene) -> None:
    scene.write({"1_bad.sql": ""})
    assert scene.start("wait").wait() == 65
    assert scene.start("wait", MIGRATIONS_DIR="nowhere").wait() == 78
    assert scene.start("wait", "--for", "database", DB_CONNECT_ATTEMPTS="five").wait() == 78
    scene.database.execute("CREATE TABLE schema_migrations (version bigint, dirty boolean)")
    (scene.migrations / "1_bad.sql").unlink()
    assert scene.start("wait").wait() == 78


def test_no_files_are_a_warning(scene: Scene) -> None:
    run = scene.start("wait").ok()
    assert run.events() == ["files.warning", "wait.over"]
