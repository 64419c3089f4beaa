"""The log is JSON for programs and text for people, and never gets in the way of a start."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST, free_port
from kit.migrations import write_migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

    Start = Callable[..., Run]

pytestmark = pytest.mark.cold

APPLICATION = ("run", "--", "echo", "started")
ESCAPE = "\033"


@pytest.fixture
def eventful(database: Database, migrations_dir: Path) -> dict[str, str]:
    """Return the environment for a start that logs at every level and ends in a failure."""
    write_migrations(
        migrations_dir,
        {
            "001_thing.sql": "CREATE TABLE thing (name text);\n"
            "DO $$ BEGIN RAISE NOTICE 'half way: grün, \"quoted\", \\ and\ta tab'; RAISE WARNING 'careful'; END $$;",
            "002_empty.sql": "",
            "003_bad.sql": "SELECT 1;\nSELECT nonsense FROM thing;\n",
        },
    )
    return {"DATABASE_URL": database.url}


def unreachable() -> dict[str, str]:
    url = f"postgresql://somebody@{HOST}:{free_port()}/shop"
    return {"DATABASE_URL": url, "DB_CONNECT_ATTEMPTS": "2", "DB_CONNECT_BACKOFF_MS": "10"}


# --- JSON -----------------------------------------------------------------------------------------------


def test_json_lines(run_entrypoint: Start, eventful: dict[str, str]) -> None:
    before = datetime.now(UTC)
    run = run_entrypoint(*APPLICATION, env={**eventful, "LOG_LEVEL": "debug", "TZ": "Asia/Tokyo"}).ok()
    after = datetime.now(UTC)
    lines = run.stderr.splitlines()
    assert len(lines) > 8
    for line in lines:
        record = json.loads(line)
        assert list(record)[:4] == ["time", "level", "event", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
        moment = datetime.fromisoformat(record["time"])
        assert before.replace(microsecond=0) <= moment <= after
        assert record["level"] in {"debug", "info", "warning", "error"}
        assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", record["event"])
        assert record["message"]
        assert "\n" not in record["message"]
        assert None not in record.values()

    applied = run.logs("migration.applied")
    assert [(record["version"], record["file"], record["level"]) for record in applied] == [
        (1, "001_thing.sql", "info"),
        (2, "002_empty.sql", "warning"),
    ]
    assert all(isinstance(record["duration_ms"], int) for record in applied)
    assert applied[0]["attempt"] == 1
    (notice,) = [record for record in run.logs() if "half way" in record["message"]]
    assert 'half way: grün, "quoted", \\ and\ta tab' in notice["message"]
    assert notice["file"] == "001_thing.sql"
    (careful,) = [record for record in run.logs() if "careful" in record["message"]]
    assert careful["level"] == "warning"
    (failed,) = run.logs("migration.failed")
    assert failed["level"] == "error"
    assert failed["sqlstate"] == "42703"
    assert (failed["version"], failed["file"]) == (3, "003_bad.sql")
    assert "LINE 2: SELECT nonsense FROM thing;\n               ^" in failed["report"]
    assert "grün" in run.stderr, "readable as it is, not as \\u00fc"


def test_json_lines_about_connecting(run_entrypoint: Start, migrations_dir: Path) -> None:
    run = run_entrypoint(*APPLICATION, env=unreachable()).ok()
    (retry,) = run.logs("database.retry")
    assert retry["attempt"] == 1
    assert retry["cause"] == "refused"
    assert retry["level"] == "warning"
    assert isinstance(retry["pause_ms"], int)
    (final,) = run.logs("database.unavailable")
    assert (final["attempts"], final["level"]) == (2, "error")
    assert final["remedy"]


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_json_whatever_the_locale(run_entrypoint: Start, eventful: dict[str, str], locale: dict[str, str]) -> None:
    """Python escapes what the locale cannot hold as a backslash, an x and two digits, which is not valid JSON."""
    run = run_entrypoint(*APPLICATION, env={**eventful, **locale}).ok()
    for line in run.stderr.splitlines():
        json.loads(line)


def test_json_of_names_that_are_not_text(run_entrypoint: Start, database: Database) -> None:
    environment = {b"DATABASE_URL": database.url.encode(), b"MIGRATIONS_DIR": b"no-\xff-such", b"APP_VERSION": b"\xfe"}
    run = run_entrypoint(*APPLICATION, env=environment).ok()
    assert run.stdout == "started\n"
    assert len([json.loads(line) for line in run.stderr.splitlines()]) >= 2


# --- Text -----------------------------------------------------------------------------------------------


def test_text_is_for_people(run_entrypoint: Start, eventful: dict[str, str]) -> None:
    run = run_entrypoint(*APPLICATION, env={**eventful, "LOG_FORMAT": "text"}).ok()
    lines = run.stderr.splitlines()
    assert run.stdout == "started\n"
    assert "{" not in run.stderr
    assert ESCAPE not in run.stderr
    assert [line for line in lines if re.match(r"\d\d:\d\d:\d\d\.\d{3} applied 001_thing\.sql in \d+ ms$", line)]
    assert [line for line in lines if re.match(r"\S+ error: 003_bad\.sql:2: ", line)]
    assert "  LINE 2: SELECT nonsense FROM thing;" in lines
    assert "                 ^" in lines
    assert [line for line in lines if line.startswith("  Fix: ")]


def test_text_lists_every_fault(run_entrypoint: Start, migrations_dir: Path) -> None:
    write_migrations(migrations_dir, {"1_short.sql": "", "002_a.sql": "", "002_b.sql": ""})
    run = run_entrypoint("status", env={"LOG_FORMAT": "text"})
    assert run.wait() == 65
    assert "  - " in run.stderr
    assert "1_short.sql" in run.stderr
    assert "002_b.sql" in run.stderr


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", {"debug", "info", "warning", "error"}),
        ("info", {"info", "warning", "error"}),
        ("WARNING", {"warning", "error"}),
        ("error", {"error"}),
        (None, {"info", "warning", "error"}),
    ],
)
def test_levels(run_entrypoint: Start, eventful: dict[str, str], level: str | None, seen: set[str]) -> None:
    environment = {**eventful, "LOG_LEVEL": level} if level else eventful
    run = run_entrypoint(*APPLICATION, env=environment).ok()
    assert {record["level"] for record in run.logs()} == seen


# --- A terminal -----------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Return both ends of a terminal: ours and the program's."""
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def shown(master: int) -> str:
    """Return what has been written to the terminal."""
    text = b""
    while select.select([master], [], [], 0)[0]:
        text += os.read(master, 65536)
    return text.decode()


def test_colours_on_a_terminal(run_entrypoint: Start, eventful: dict[str, str], terminal: tuple[int, int]) -> None:
    master, slave = terminal
    run_entrypoint(*APPLICATION, env={**eventful, "TERM": "xterm"}, stderr=slave).ok()
    text = shown(master)
    assert "{" not in text
    assert f"{ESCAPE}[31m" in text
    assert text.rstrip().rpartition(ESCAPE)[2].startswith("[0m")


def test_json_on_a_terminal_has_no_colours(
    run_entrypoint: Start, eventful: dict[str, str], terminal: tuple[int, int]
) -> None:
    master, slave = terminal
    run_entrypoint(*APPLICATION, env={**eventful, "LOG_FORMAT": "json", "TERM": "xterm"}, stderr=slave).ok()
    text = shown(master)
    assert ESCAPE not in text
    assert all(json.loads(line) for line in text.splitlines())


# --- A log that cannot be written -----------------------------------------------------------------------


def broken_pipe() -> int:
    """Return the writing end of a pipe whose reading end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_broken_pipe_does_not_stop_a_start(
    run_entrypoint: Start, eventful: dict[str, str], database: Database, style: str
) -> None:
    pipe = broken_pipe()
    run = run_entrypoint(*APPLICATION, env={**eventful, "LOG_FORMAT": style}, stderr=pipe)
    os.close(pipe)
    run.ok()
    assert run.stdout == "started\n"
    assert database.one("SELECT count(*) FROM schema_migrations WHERE status = 'completed'") == 2


def test_a_full_disk_does_not_stop_a_start(run_entrypoint: Start, eventful: dict[str, str], database: Database) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    run = run_entrypoint(*APPLICATION, env=eventful, stderr=full)
    os.close(full)
    run.ok()
    assert run.stdout == "started\n"
    assert database.exists("thing")


def test_a_closed_stderr_does_not_stop_a_start(
    run_entrypoint: Start, eventful: dict[str, str], database: Database
) -> None:
    run = run_entrypoint(*APPLICATION, env=eventful, before_exec=lambda: os.close(2)).ok()
    assert run.stdout == "started\n"
    assert database.exists("thing")


@pytest.mark.parametrize("kind", ["closed", "broken"])
def test_the_exit_code_is_the_same_without_a_log(run_entrypoint: Start, migrations_dir: Path, kind: str) -> None:
    """Python's own exit would change the code to 120 if it could not flush its buffers."""
    for command, code in ((("migrate",), 69), (("no-such-command",), 64)):
        if kind == "closed":
            run = run_entrypoint(*command, env=unreachable(), before_exec=lambda: os.close(2))
        else:
            pipe = broken_pipe()
            run = run_entrypoint(*command, env=unreachable(), stderr=pipe)
            os.close(pipe)
        assert run.wait() == code


def test_other_packages_warnings_come_as_lines_of_the_log(tmp_path: Path, run_program: Start) -> None:
    """Whatever an imported package logs or warns about has the same format and is redacted."""
    script = (
        "import logging, sys; from entrypoint import logs\n"
        "logs.configure(style='json', level='info', stream=sys.stderr, secrets=['quokka'])\n"
        "logs.adopt_other_packages()\n"
        "logging.getLogger('psycopg').warning('about %s', 'a quokka')\n"
        "try: raise ValueError('quokka')\n"
        "except ValueError: logging.getLogger('psycopg').exception('caught')\n"
    )
    run = run_program([sys.executable, "-c", script]).ok()
    first, second = (json.loads(line) for line in run.stderr.splitlines())
    assert (first["level"], first["event"], first["message"]) == ("warning", "psycopg", "about a ***")
    assert "ValueError: ***" in second["traceback"]


def test_a_log_costs_little_time(tmp_path: Path, run_program: Start) -> None:
    """A migration may raise a notice for each of many rows."""
    script = (
        "import sys; from entrypoint import logs\n"
        "logs.configure(style='json', level='info', stream=sys.stderr, secrets=['quokka', 'wombat-of-some-length'])\n"
        "for number in range(5000): logs.event(logs.INFO, 'migration.notice', f'row {number}', file='001_a.sql')\n"
    )
    began = time.monotonic()
    run = run_program([sys.executable, "-c", script]).ok()
    assert len(run.stderr.splitlines()) == 5000
    assert time.monotonic() - began < 5
