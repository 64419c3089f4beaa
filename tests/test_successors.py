"""A tool commits nothing once its successor has begun, even if its holder was killed or frozen and it keeps trying.

ENTRYPOINT_TEST_KILL_ROUNDS=50 plays each case fifty times, and prints how long the takeovers took.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from kit.processes import until
from scene import Scene, token_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

ROUNDS = int(os.environ.get("ENTRYPOINT_TEST_KILL_ROUNDS", "1"))
PROGRAMS = Path(__file__).parent / "kit/programs"
# `make tools` installs this; tests/tools/test_successor_of_npm.py plays the same cases with it.
NODE_PROGRAMS = Path(__file__).parents[1] / ".tools/node-programs"
# The tool connects by itself. If its holder is frozen, the keeper ends the tool before PostgreSQL ends the guard.
ELSEWHERE = "elsewhere"
PYTHON = f"{sys.executable} {PROGRAMS / 'stubborn.py'}"
TABLES = """
    DROP TABLE IF EXISTS begun, work, finished, migration_commands, migration_lock;
    CREATE TABLE begun (run text, seen int, at timestamptz);
    CREATE TABLE work (run text);
    CREATE TABLE finished (run text);
"""


def command_of(tool: str, directory: Path, seconds: float) -> str:
    """Return a command line that works for `seconds`; skip the test if the tool is not installed."""
    if tool == "npm":
        if not (shutil.which("npm") and (NODE_PROGRAMS / "node_modules/pg").is_dir()):
            missing("no npm, or no node-postgres (make tools)")
        script = f"node {PROGRAMS / 'stubborn.mjs'} {seconds}"
        (directory / "package.json").write_text(f'{{"scripts": {{"migrate": "{script}"}}}}')
        return "npm run migrate"
    if tool == ELSEWHERE:
        return f"sh -c 'DATABASE_URL=$DIRECTLY exec {PYTHON} psycopg {seconds}'"
    if tool == "sh":
        return f"sh -c '{PYTHON} psycopg {seconds} & wait'"
    if tool == "setsid":
        return f"sh -c 'setsid {PYTHON} psycopg {seconds} & wait'"
    return f"{PYTHON} {tool} {seconds}"


@pytest.mark.timeout(60 + 60 * ROUNDS)
@pytest.mark.parametrize(
    ("tool", "fault"),
    [
        ("psycopg", signal.SIGKILL),
        ("psycopg", signal.SIGSTOP),
        pytest.param("sh", signal.SIGKILL, marks=pytest.mark.thorough),
        pytest.param("sh", signal.SIGSTOP, marks=pytest.mark.thorough),
        ("setsid", signal.SIGKILL),
        pytest.param("setsid", signal.SIGSTOP, marks=pytest.mark.thorough),
        pytest.param("asyncpg", signal.SIGKILL, marks=pytest.mark.thorough),
        pytest.param("asyncpg", signal.SIGSTOP, marks=pytest.mark.thorough),
        pytest.param(ELSEWHERE, signal.SIGKILL, marks=pytest.mark.thorough),
        pytest.param(ELSEWHERE, signal.SIGSTOP, marks=pytest.mark.thorough),
    ],
)
def test_no_commit_after_the_successor_began(
    database: Database, tmp_path: Path, run_entrypoint: Callable[..., Run], tool: str, fault: signal.Signals
) -> None:
    took = [one_round(database, tmp_path, run_entrypoint, tool, fault) for _ in range(ROUNDS)]
    times = ", ".join(f"{seconds:.2f}" for seconds in sorted(took))
    print(f"\n{tool}, {fault.name}: {len(took)} rounds, takeovers after {times} s")  # noqa: T201 - the measurement


def one_round(
    database: Database, tmp_path: Path, launch: Callable[..., Run], tool: str, fault: signal.Signals
) -> float:
    """Strike the holder in the middle of its tool's work; return how long it took until another one had the lock."""
    database.execute(TABLES)
    scene = Scene(database, tmp_path, launch)

    def start(name: str, seconds: float) -> Run:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        env = {
            "DATABASE_URL": database.url,
            "MIGRATION_COMMAND": command_of(tool, directory, seconds),
            "MIGRATION_LOCK_TIMEOUT_MS": "60000",
            "DIRECTLY": database.url,
            "NODE_PROGRAMS": str(NODE_PROGRAMS),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(tmp_path),
        }
        return launch("migrate", env=env, cwd=directory)

    with start("old", 60) as old:
        until(lambda: database.one("SELECT count(*) FROM work") > 2, 20, old.report)
        guard = scene.guard_pid(token_of(old))
        with start("new", 0.3) as new:
            new.until("lock.waiting")
            time.sleep(random.uniform(0, 0.3))
            struck = time.time()
            old.kill(fault)
            if fault == signal.SIGSTOP and tool != ELSEWHERE:
                # PostgreSQL does this after half a minute: see `idle_in_transaction_session_timeout` in guard.py.
                database.execute(f"SELECT pg_terminate_backend({guard})")
            until(lambda: database.one("SELECT count(*) FROM begun") > 1, 60, new.report)
            old.kill(signal.SIGCONT)
            new.ok()
        old.kill()
        old.wait()
    (first, _), (second, seen) = database.rows("SELECT run, seen FROM begun ORDER BY at LIMIT 2")
    until(lambda: database.sessions(ours=0) == 1, 20)
    assert database.one(f"SELECT count(*) FROM work WHERE run = '{first}'") == seen
    assert database.one(f"SELECT count(*) FROM finished WHERE run = '{second}'") == 1
    return datetime.fromisoformat(str(new.logs("lock.acquired")[0]["time"])).timestamp() - struck
