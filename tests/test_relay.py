"""The relay: how another migration tool reaches the server, and what a successor finds of it there."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from kit.processes import until
from scene import lock_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

    Launch = Callable[..., Run]

SHOW = """
import os, sys, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    print("shown", *connection.execute(sys.argv[1]).fetchone(), sep="|")
"""
# A migration as a tool without any lock makes it: it works for a while, and commits.
WORK = """
import os, sys, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("INSERT INTO work VALUES (%s, clock_timestamp())", (sys.argv[1],))
    connection.execute(sys.argv[2])
print("committed", flush=True)
"""


@pytest.fixture
def launch(run_entrypoint: Callable[..., Run], database: Database) -> Launch:
    """Return a function that starts the program with a Python text as the migration tool."""

    def start(text: str, *words: str, url: str = "", **env: str) -> Run:
        command = " ".join(f'"{word}"' for word in (sys.executable, "-c", text.replace('"', "'"), *words))
        return run_entrypoint(
            "run", "--", "true", env={"DATABASE_URL": url or database.url, "MIGRATION_COMMAND": command, **env}
        )

    return start


def shown(run: Run) -> list[str]:
    """Wait for the end, and return what the tool has shown."""
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


def test_the_tools_own_options_stay_and_its_parameters(launch: Launch, database: Database) -> None:
    url = f"{database.url}?options=-c%20work_mem%3D7MB&application_name=mine"
    show = "SELECT current_setting('work_mem'), current_setting('client_connection_check_interval')"
    assert shown(launch(SHOW, show, url=url)) == ["7MB", "2s"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_tool_has_left_is_ended_before_the_next_one_begins(
    launch: Launch, database: Database, number: signal.Signals
) -> None:
    database.execute("CREATE TABLE work (who text, at timestamptz)")
    # Its own client's end would be noticed after 2 s otherwise.
    url = f"{database.url}?options=-c%20client_connection_check_interval%3D0"
    first = launch(WORK, "first", "SELECT pg_sleep(30)", url=url)
    until(lambda: database.one("SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'") == 1)
    first.kill(number)
    if number == signal.SIGSTOP:
        # As PostgreSQL does it after 27 s.
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
