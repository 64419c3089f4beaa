"""The progress bar of `migrate`, as a person at a terminal sees it."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from entrypoint.migration.observe.blockers import Blocker
from entrypoint.migration.observe.board import Activity, Board, Seen
from entrypoint.migration.observe.progress import Progress, Walked
from entrypoint.operations.progress_bar import describe
from kit.processes import until
from kit.screen import Terminal, render
from scene import Gate, Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kit.databases import Database
    from kit.processes import Run

FILES = {
    "001_a.sql": "CREATE TABLE a ();",
    "002_gate.sql": Gate.PASS,
    "003_loud.sql": "DO $$ BEGIN RAISE NOTICE 'done by now: %', repeat('word-', 40); END $$;",
}
HIDE_CURSOR = "\x1b[?25l"


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    scene = Scene(database, migrations_dir, run_entrypoint)
    scene.write(FILES)
    return scene


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as terminal:
        yield terminal


def start(scene: Scene, terminal: Terminal, *command: str, **env: str) -> Run:
    environment = {"DATABASE_URL": scene.database.url, "TERM": "xterm-256color", **env}
    return scene.launch(*(command or ("migrate",)), env=environment, stderr=terminal.fd)


def bar_is_up(terminal: Terminal) -> bool:
    return any("1 of 3 migrations" in line for line in terminal.screen)


def test_it_shows_what_is_done_and_what_is_going_on_and_goes_away(scene: Scene, terminal: Terminal) -> None:
    with Gate(scene.database) as gate:
        run = start(scene, terminal)
        gate.arrival()
        until(lambda: bar_is_up(terminal) and "002_gate.sql" in terminal.screen[-1], 20, lambda: str(terminal.screen))
        bar, activity = terminal.screen[-2:]
        assert bar.startswith("1 of 3 migrations")
        assert bar.rstrip().endswith(tuple("0123456789"))
        assert activity.startswith("002_gate.sql, statement 1 of 1, ")
        # The watcher's look finds out what blocks it. The log's line about it appears above the bar.
        until(lambda: "waits for a lock that backend" in terminal.screen[-1], 20, lambda: str(terminal.screen))
        assert any("has waited" in line for line in terminal.screen[:-2])
        assert bar_is_up(terminal)
        gate.open()
        assert run.wait() == 0
    until(lambda: "schema is at version 3" in terminal.raw, 5, "the last line of the log")
    screen = terminal.screen
    assert not [line for line in screen if "of 3 migrations" in line or "━" in line], "the bar is gone"
    assert "" not in screen, "there are no empty lines between those of the log"
    # The log's lines are whole: none contains a piece of the bar, and only the terminal wraps long ones.
    text = "".join(screen)
    assert "done by now: " + "word-" * 40 in text
    for name in FILES:
        assert f"applied {name} in " in text
    assert HIDE_CURSOR not in terminal.raw, "nothing that would have to be put back"


def test_it_goes_away_when_a_migration_fails(scene: Scene, terminal: Terminal) -> None:
    scene.write({"003_loud.sql": "SELECT 1/0"})
    run = start(scene, terminal)
    assert run.wait() == 70
    until(lambda: "Fix: " in terminal.raw, 5, "the remedy")
    screen = terminal.screen
    assert any("division by zero" in line for line in screen)
    assert not [line for line in screen if "of 3 migrations" in line]
    assert any("of 3 migrations" in line for line in terminal.raw.splitlines()), "it was there"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_goes_away_with_a_signal(scene: Scene, terminal: Terminal, number: signal.Signals) -> None:
    with Gate(scene.database) as gate:
        run = start(scene, terminal)
        gate.arrival()
        until(lambda: bar_is_up(terminal), 20, lambda: str(terminal.screen))
        run.kill(number)
        assert run.wait(5) == 128 + number
    until(lambda: f"{number.name}: stopped" in terminal.raw, 5, lambda: str(terminal.screen))
    assert not [line for line in terminal.screen if "of 3 migrations" in line]
    assert HIDE_CURSOR not in terminal.raw


def test_a_migration_command_has_its_line_and_no_bar(scene: Scene, terminal: Terminal, tmp_path: Path) -> None:
    command = f"sh -c 'while [ ! -e {tmp_path}/go ]; do sleep 0.05; done'"
    run = start(scene, terminal, MIGRATION_COMMAND=command)
    until(lambda: terminal.screen and "sh -c" in terminal.screen[-1], 20, lambda: str(terminal.screen))
    assert not any("0 of 0" in line for line in terminal.screen)
    (tmp_path / "go").touch()
    run.ok()
    assert not any(" of 0 migrations" in line for line in terminal.screen)


def test_it_shows_who_is_waited_for(scene: Scene, terminal: Terminal) -> None:
    with Gate(scene.database) as gate:
        holder = scene.start("migrate")
        gate.arrival()
        run = start(scene, terminal)
        until(
            lambda: any(line.startswith("waiting for the migration lock: ") for line in terminal.screen[-1:]),
            20,
            lambda: str(terminal.screen),
        )
        assert "1 of 2 migrations" in terminal.screen[-2] or "0 of 2 migrations" in terminal.screen[-2]
        gate.open()
        assert run.wait() == 0
        holder.ok()
    # What a process writes reaches the terminal a moment later, even if the process has ended.
    until(lambda: not [line for line in terminal.screen if "migrations ━" in line], 5, lambda: str(terminal.screen))


@pytest.mark.parametrize(
    ("command", "env"),
    [
        (("migrate",), {"LOG_FORMAT": "json"}),
        (("migrate",), {"TERM": "dumb"}),
        (("migrate",), {"TERM": ""}),
        (("run", "--", "true"), {}),
    ],
    ids=["a log in JSON", "a terminal that cannot", "no TERM", "not under run"],
)
def test_where_there_is_none(scene: Scene, terminal: Terminal, command: tuple[str, ...], env: dict[str, str]) -> None:
    with Gate(scene.database) as gate:
        run = start(scene, terminal, *command, **env)
        gate.arrival()
        # The watcher's report comes later than a bar would.
        until(lambda: "waiting for a lock in 002_gate.sql" in terminal.raw, 20, lambda: terminal.raw)
        gate.open()
        assert run.wait() == 0
    assert "of 3 migrations" not in terminal.raw
    assert "\x1b[2K" not in terminal.raw
    if env.get("LOG_FORMAT"):
        assert [json.loads(line) for line in terminal.raw.splitlines()]


def test_there_is_none_when_nothing_is_pending(scene: Scene, terminal: Terminal) -> None:
    scene.migrated()
    assert start(scene, terminal).wait() == 0
    until(lambda: "up to date" in terminal.raw, 5, lambda: terminal.raw)
    assert "migrations ━" not in terminal.raw
    assert "\x1b[2K" not in terminal.raw


def test_a_log_that_is_no_terminal_is_as_it_was(scene: Scene) -> None:
    run = scene.start("migrate", LOG_FORMAT="text", TERM="xterm")
    run.ok()
    assert "\x1b" not in run.stderr


# --- The line below the bar -----------------------------------------------------------------------------

AT = Activity("002_b.sql", 4, began=0.0, since=5.0, statement=2, statements=3, lock_patience=None, transaction=2)
INDEX = Progress("CREATE INDEX", "orders", "building index: scanning table", 42)
FILL = Progress("UPDATE", "orders", "600 rows in 6 batches, about 12 s left", 60)
ANN = Blocker(7, "ann", "report", 42, "idle in transaction", waits=False, query="", kind="client backend", gid=None)

LINES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing yet": ({}, ""),
    "somebody else has the lock": (
        {"waiting_for": "pod-1 has held it", "activity": AT},
        "waiting for the migration lock: pod-1 has held it",
    ),
    "a statement": ({"activity": AT}, "002_b.sql, statement 2 of 3, 7 s"),
    "a statement of a file that was sent as a whole": (
        {"activity": AT._replace(transaction=0)},
        "002_b.sql, statement 2 or later of 3, 7 s",
    ),
    "the last of such a file": (
        {"activity": AT._replace(transaction=0, statement=3)},
        "002_b.sql, statement 3 of 3, 7 s",
    ),
    "its progress": (
        {"activity": AT, "seen": Seen(AT, INDEX, ())},
        "002_b.sql, statement 2 of 3, 7 s: CREATE INDEX on orders: building index: scanning table, 42 %",
    ),
    "how far its batches are, which it knows itself": (
        {"activity": AT._replace(walk=Walked(FILL, 600, 6, 12)), "seen": Seen(AT._replace(transaction=1), None, ())},
        "002_b.sql, statement 2 of 3, 7 s: UPDATE on orders: 600 rows in 6 batches, about 12 s left, 60 %",
    ),
    "its blocker, which is what matters": (
        {"activity": AT, "seen": Seen(AT, INDEX, (ANN,))},
        "002_b.sql, statement 2 of 3, 7 s: waits for a lock that backend 7 (ann, report) holds",
    ),
    "seen of an earlier statement": (
        {"activity": AT, "seen": Seen(AT._replace(statement=1), INDEX, ())},
        "002_b.sql, statement 2 of 3, 7 s",
    ),
    "seen of an earlier attempt": (
        {"activity": AT, "seen": Seen(AT._replace(began=-9.0), INDEX, ())},
        "002_b.sql, statement 2 of 3, 7 s",
    ),
    "between two attempts": (
        {"activity": AT._replace(retry="attempt 1 ended"), "seen": Seen(AT, INDEX, ())},
        "002_b.sql: attempt 1 ended",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_the_line_below(case: str) -> None:
    values, expected = LINES[case]
    board = Board(3)
    for name, value in values.items():
        setattr(board, name, value)
    assert describe(board, now=12.0) == expected


def test_the_kits_terminal() -> None:
    assert render("one\r\ntwo\r\n", 10) == ["one", "two"]
    assert render("one\r\x1b[2Ktwo", 10) == ["two"]
    assert render("bar\r\nbelow\r\x1b[2K\x1b[1A\x1b[2Klog\r\nbar", 10) == ["log", "bar"]
    assert render("\x1b[31mred\x1b[0m and long", 10) == ["red and lo", "ng"]
