"""The relay: how another migration tool reaches the server, and what a successor finds of its sessions."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from demo.postgres import HOST, free_port
from kit.pooler import executable, pooler
from kit.processes import until
from scene import lock_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

    Launch = Callable[..., Run]

SHOW = """
import os, sys, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    print("shown", *connection.execute(sys.argv[1]).fetchone(), sep="|")
"""
# A migration as a tool without any lock runs it: works for a while, then commits.
WORK = """
import os, sys, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("INSERT INTO work VALUES (%s, clock_timestamp())", (sys.argv[1],))
    connection.execute(sys.argv[2])
print("committed", flush=True)
"""


@pytest.fixture
def launch(run_entrypoint: Callable[..., Run], database: Database) -> Launch:
    """Return a function that starts the program with Python code as the migration tool."""

    def start(text: str, *words: str, url: str = "", **env: str) -> Run:
        command = " ".join(f'"{word}"' for word in (sys.executable, "-c", text.replace('"', "'"), *words))
        return run_entrypoint(
            "run", "--", "true", env={"DATABASE_URL": url or database.url, "MIGRATION_COMMAND": command, **env}
        )

    return start


def shown(run: Run) -> list[str]:
    """Wait for the end, and return what the tool printed."""
    run.ok()
    lines = [record["message"] for record in run.logs("command.output")]
    assert lines, run.report()
    return str(lines[-1]).split("|")[1:]


def test_a_session_has_its_name_its_locks_and_its_setting(launch: Launch, database: Database) -> None:
    run = launch(
        SHOW,
        "SELECT current_setting('application_name'), current_setting('client_connection_check_interval'), "
        "(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND mode = 'ShareLock'),"
        "current_database()",
    )
    name, interval, locks, name_of_database = shown(run)
    assert (name[:11], name[-5:], interval, locks) == ("entrypoint:", ":tool", "2s", "2")
    assert name_of_database == database.name
    assert not run.logs("command.direct")
    until(lambda: database.sessions() == 0)


@pytest.mark.thorough
def test_the_tools_own_options_stay_and_its_parameters(launch: Launch, database: Database) -> None:
    url = f"{database.url}?options=-c%20work_mem%3D7MB&application_name=mine"
    show = "SELECT current_setting('work_mem'), current_setting('client_connection_check_interval')"
    assert shown(launch(SHOW, show, url=url)) == ["7MB", "2s"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_tool_has_left_is_ended_before_the_next_one_begins(
    launch: Launch, database: Database, number: signal.Signals
) -> None:
    database.execute("CREATE TABLE work (who text, at timestamptz)")
    # Otherwise the server would notice within 2 s that its client is gone.
    url = f"{database.url}?options=-c%20client_connection_check_interval%3D0"
    first = launch(WORK, "first", "SELECT pg_sleep(30)", url=url)
    until(lambda: database.one("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'") == 1)
    first.kill(number)
    if number == signal.SIGSTOP:
        # PostgreSQL does this by itself after 27 s.
        classid, _ = lock_key().split(", ")
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            f"WHERE locktype = 'advisory' AND objsubid = 2 AND mode = 'ExclusiveLock' AND classid = {classid}"
        )
    second = launch(WORK, "second", "SELECT 1").ok()
    first.kill(signal.SIGKILL)
    first.wait()
    assert not first.logs("command.completed")
    assert database.rows("SELECT who FROM work") == [("second",)]
    assert second.logs("command.evicted")[0]["sessions"] == 1


NAME = "SELECT current_setting('application_name'), inet_server_addr() IS NULL"


@pytest.mark.thorough
@pytest.mark.parametrize("spelled", ["url", "conninfo", "variables"])
def test_a_socket_of_unix(launch: Launch, database: Database, spelled: str) -> None:
    folder, port = database.server.directory, database.server.port
    url, text, env = f"postgresql://postgres@/{database.name}?host={folder}&port={port}", SHOW, {}
    if spelled == "conninfo":
        url = f"host={folder} port={port} user=postgres dbname={database.name}"
    if spelled == "variables":
        env = {"PGHOST": str(folder), "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": database.name}
        url, text = "", SHOW.replace('os.environ["DATABASE_URL"]', '""')
    name, local = shown(launch(text, NAME, url=url or "", **({"DATABASE_URL": ""} | env if env else {})))
    assert (name[-5:], local) == (":tool", "True")


@pytest.mark.thorough
def test_of_several_hosts_it_is_ours(launch: Launch, database: Database) -> None:
    url = f"postgresql://postgres@{HOST}:{free_port()},{HOST}:{database.server.port}/{database.name}"
    assert shown(launch(SHOW, NAME, url=url))[0].endswith(":tool")


@pytest.mark.thorough
def test_a_file_with_the_address_in_it(launch: Launch, database: Database, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{database.url}\n")
    text = SHOW.replace('os.environ["DATABASE_URL"]', 'open(os.environ["DATABASE_URL_FILE"]).read()')
    env = {"DATABASE_URL_FILE": str(tmp_path / "secret"), "DATABASE_URL": ""}
    assert shown(launch(text, NAME, **env))[0].endswith(":tool")


def test_a_statement_is_cancelled_through_it(launch: Launch, database: Database) -> None:
    text = """
import os, sys, threading, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    threading.Timer(0.3, connection.cancel).start()
    try:
        connection.execute("SELECT pg_sleep(30)")
    except psycopg.errors.QueryCanceled as error:
        print("shown", error.sqlstate, sep="|")
"""
    assert shown(launch(text)) == ["57014"]
    assert database.sessions() == 0


@pytest.mark.thorough
def test_another_database_of_the_server_and_many_connections(launch: Launch, database: Database) -> None:
    text = """
import os, sys, psycopg
url = os.environ["DATABASE_URL"]
many = [psycopg.connect(url) for _ in range(30)] + [psycopg.connect(url, dbname="postgres")]
counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
print("shown", *many[-1].execute(counted, ("entrypoint:%:tool",)).fetchone(), many[-1].info.dbname, sep="|", flush=True)
os._exit(0)
"""
    assert shown(launch(text)) == ["31", "postgres"]
    # None of its sessions is left, although it did not close any.
    assert database.one("SELECT count(*) FROM pg_stat_activity WHERE application_name ~ ':tool$'") == 0


@pytest.mark.thorough
def test_a_session_that_lets_its_locks_go_is_found_by_its_name(launch: Launch, database: Database) -> None:
    database.execute("CREATE TABLE work (who text, at timestamptz)")
    url = f"{database.url}?options=-c%20client_connection_check_interval%3D0"
    text = WORK.replace("sys.argv[2]", "'SELECT pg_advisory_unlock_all(), pg_sleep(30)'")
    first = launch(text, "first", url=url)
    until(lambda: database.one("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_advisory_unlock_all'"))
    first.kill()
    second = launch(WORK, "second", "SELECT 1").ok()
    assert second.logs("command.evicted")[0]["sessions"] == 1
    assert database.rows("SELECT who FROM work") == [("second",)]


def test_unlock_tells_the_commands_session_from_ours(
    launch: Launch, database: Database, run_entrypoint: Callable[..., Run]
) -> None:
    database.execute("CREATE TABLE work (who text, at timestamptz)")
    first = launch(WORK, "first", "SELECT pg_sleep(30)")
    until(lambda: database.one("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'") == 1)
    pid = database.one("SELECT pid FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'")
    unlock = run_entrypoint("unlock", env={"DATABASE_URL": database.url})
    assert unlock.wait() == 75
    assert f"Command: backend {pid} of postgres" in unlock.stdout
    first.terminate()
    assert first.wait() == 143


AROUND = """
import sys, psycopg
with psycopg.connect(sys.argv[1]) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS around ()")
"""


def test_a_tool_that_goes_around_the_relay_is_warned_of(launch: Launch, database: Database) -> None:
    run = launch(AROUND, database.url).ok()
    (warning,) = run.logs("command.direct")
    assert warning["level"] == "warning"
    assert "DATABASE_URL" in warning["remedy"]
    assert not launch(SHOW, "SELECT 1").ok().logs("command.direct")


def test_behind_a_pooler_it_goes_by_itself_with_its_name(launch: Launch, database: Database) -> None:
    if executable() is None:
        missing("no pgbouncer")
    with pooler(database.server, pool_size=4) as port:
        run = launch(SHOW, NAME, url=database.url_at(port)).ok()
    assert run.logs("command.direct")[0]["message"].endswith(": there is a pooler between here and the server")
    assert shown(run)[0].endswith(":tool")


@pytest.mark.thorough
def test_sessions_that_cannot_be_ended_keep_everybody_away(launch: Launch, database: Database) -> None:
    database.execute("CREATE ROLE deployer LOGIN; GRANT ALL ON SCHEMA public TO deployer")
    try:
        url = database.server.url(database.name).replace("postgres@", "deployer@")
        first = launch(SHOW, "SELECT 1", url=url)
        shown(first)
        # A superuser's session, as if the tool had logged in as a different user.
        database.execute("UPDATE migration_lock SET token = '0123456789abcdef.1'")
        with database.connect(application_name="entrypoint:0123456789abcdef:tool"):
            second = launch(SHOW, "SELECT 2", url=url, MIGRATION_LOCK_TIMEOUT_MS="3000", MIGRATION_ON_FAILURE="exit")
            assert second.wait() == 75
        (left,) = second.logs("command.sessions_left")
        assert left["level"] == "warning", "it is only told once, at this level, however often it is tried"
    finally:
        database.execute("DROP OWNED BY deployer; DROP ROLE deployer")
