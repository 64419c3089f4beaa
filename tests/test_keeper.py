"""Another migration tool's processes: what they receive, what they print, and that none is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conftest import missing
from kit.processes import alive, command_line, descendants, open_fds, peak_memory, status, until, without_internal

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.processes import Run

KEEP = Path(__file__).parent / "kit/programs/keep.py"
# Processes that left their parents for their own sessions, as with `npm run`, a shell's `&` or a daemon.
SCATTER = "setsid sh -c 'sleep 300 & sleep 300' & (sleep 300 &) ; echo scattered; "


@pytest.fixture
def keep(run_program: Callable[..., Run]) -> Callable[..., Run]:
    """Return a function that starts a holder, which runs a shell command for at most this many seconds."""

    def start(script: str, *, seconds: float = 60, **options: Any) -> Run:
        return run_program([sys.executable, str(KEEP), str(seconds), "sh", "-c", script], **options)

    return start


def ended(run: Run) -> dict[str, Any]:
    """Return how the command ended."""
    run.wait()
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def output(run: Run) -> list[str]:
    """Return the logged lines of output."""
    return [str(record["message"]) for record in run.logs("command.output")]


def mark(value: str) -> str:
    """Return a value for `MARK` that no other test run has."""
    return f"{value}-{os.getpid()}"


def marked(value: str) -> list[int]:
    """Return the processes with this value of `MARK` in their environment, whoever their parents are."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"MARK={mark(value)}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def test_a_line_is_an_event_of_its_stream_and_the_exit_code_is_told(keep: Callable[..., Run]) -> None:
    run = keep("echo one; echo two >&2; printf three; exit 7")
    told = ended(run)
    assert (told["exit_code"], told["signal"], told["timed_out"], told["cannot_start"]) == (7, None, False, "")
    assert {(one["message"], one["stream"]) for one in run.logs("command.output")} == {
        ("one", "stdout"),
        ("two", "stderr"),
        ("three", "stdout"),
    }
    assert sorted(told["tail"]) == ["one", "three", "two"]


@pytest.mark.thorough
def test_a_signal_is_told_as_one(keep: Callable[..., Run]) -> None:
    assert ended(keep("kill -SEGV $$"))["signal"] == signal.SIGSEGV


def test_what_cannot_be_executed_is_told(run_program: Callable[..., Run], tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    run = run_program([sys.executable, str(KEEP), "10", str(script)])
    assert ended(run)["cannot_start"] == os.strerror(2)


def test_secrets_escapes_and_nul_are_not_in_the_log(keep: Callable[..., Run]) -> None:
    run = keep(r"printf '\033[31ma-known-secret\033[0m and hush-hush\000!\n10%%\r20%%\r100%%\n'")
    assert ended(run)["tail"] == ["*** and ***!", "100%"]
    assert output(run) == ["*** and ***!", "100%"]


def test_the_tool_finds_what_the_application_would(keep: Callable[..., Run], tmp_path: Path) -> None:
    run = keep(
        "env > env; echo $$; exec sleep 300",
        env={"LC_ALL": "C", "MINE": "yes"},
        # `nohup` ignores SIGHUP, which matters if the tests run in the background.
        before_exec=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    pid = int(run.until("command.output")["message"])
    # Until then, it may have a library open while loading it.
    until(lambda: status(pid)["State"].startswith("S") and open_fds(pid).keys() == {0, 1, 2})
    shown = status(pid)
    assert open_fds(pid)[0] == "/dev/null"
    assert int(shown["SigBlk"], 16) == 0
    assert int(without_internal(shown["SigIgn"]), 16) == 0
    assert os.getsid(pid) == pid
    run.terminate()
    run.wait()
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert {"MINE", "DATABASE_URL", "PGAPPNAME"} <= names
    assert "LC_CTYPE" not in names


def test_it_reads_nothing_and_has_no_terminal(keep: Callable[..., Run]) -> None:
    told = ended(keep("cat; cat </dev/tty || exit 3"))
    assert told["exit_code"] == 3


def test_nothing_is_left_after_a_normal_end(keep: Callable[..., Run]) -> None:
    run = keep(SCATTER + "exit 0", env={"MARK": mark("normal-end")})
    assert ended(run)["exit_code"] == 0
    assert marked("normal-end") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_holder_is_ended(keep: Callable[..., Run], number: signal.Signals) -> None:
    # It ignores the signal, so it would not end on its own.
    run = keep("trap '' TERM INT; " + SCATTER + "while :; do sleep 300; done")
    run.until("command.output")
    until(lambda: len(descendants(run.pid)) >= 6)
    family = descendants(run.pid)
    began = time.monotonic()
    run.kill(number)
    run.wait()
    assert time.monotonic() - began < 2.0
    until(lambda: not any(alive(pid) for pid in family), timeout=1.0)


def test_the_tool_may_end_gently(keep: Callable[..., Run], tmp_path: Path) -> None:
    run = keep("trap 'echo undone > gone; exit' TERM; echo ready; while :; do sleep 0.05; done")
    run.until("command.output")
    run.terminate()
    assert run.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "gone").read_text() == "undone\n"


def test_the_time_is_bounded(keep: Callable[..., Run]) -> None:
    began = time.monotonic()
    run = keep("trap '' TERM; " + SCATTER + "while :; do sleep 300; done", seconds=0.5, env={"MARK": mark("time")})
    told = ended(run)
    assert told["timed_out"]
    assert told["signal"] == signal.SIGKILL
    assert time.monotonic() - began < 8
    assert marked("time") == []


def test_whoever_kills_the_keeper_ends_the_tool(keep: Callable[..., Run]) -> None:
    run = keep("echo ready; exec sleep 300")
    run.until("command.output")
    keeper = next(pid for pid in descendants(run.pid) if b"keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(keeper, signal.SIGKILL)
    assert ended(run)["signal"] == signal.SIGKILL


@pytest.mark.thorough
def test_a_gigabyte_without_a_newline_takes_no_memory(keep: Callable[..., Run]) -> None:
    run = keep("head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo after")
    told = ended(run)
    assert told["exit_code"] == 0
    first, last = told["tail"]
    assert last == "after"
    assert first == "x" * 1000
    assert len(output(run)[0]) < 9_000


@pytest.mark.thorough
def test_more_lines_than_anybody_reads_keep_their_order(keep: Callable[..., Run]) -> None:
    run = keep("seq 1 20000")
    assert ended(run)["tail"] == [str(number) for number in range(19981, 20001)]
    assert output(run) == [str(number) for number in range(1, 20001)]


def test_whoever_holds_the_output_open_keeps_nobody(keep: Callable[..., Run], tmp_path: Path) -> None:
    # A process outside the tool's family opens the pipe too.
    run = keep("echo $$; while [ ! -e go ]; do sleep 0.05; done; echo last")
    pid = int(run.until("command.output")["message"])
    with Path(f"/proc/{pid}/fd/1").open("wb"):
        began = time.monotonic()
        (tmp_path / "go").touch()
        assert ended(run)["tail"][-1] == "last"
        assert time.monotonic() - began < 3


def test_a_gigabyte_takes_the_holder_no_memory(keep: Callable[..., Run]) -> None:
    run = keep("head -c 300000000 /dev/zero | tr '\\0' x; echo; echo after; exec sleep 300")
    run.until(lambda record: record["message"] == "after", timeout=60)
    # Enough for an interpreter with a start's imports, not for what has passed through.
    assert peak_memory(run.pid) < 80_000_000


def test_a_terminal_gets_the_output_as_it_is(keep: Callable[..., Run]) -> None:
    ours, its = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        run = keep(
            r"test -t 1 && test -t 2 || echo no terminal; printf '\033[32mgreen\033[0m a-known-secret\n'; "
            "cat </dev/tty || stty size",
            stderr=its,
        )
        told = ended(run)
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # reading fails at the terminal's end
            while piece := screen.read(4096):
                shown += piece
    assert b"\x1b[32mgreen\x1b[0m a-known-secret\r\n" in shown
    assert b"no terminal" not in shown
    # The kept part goes into a row of the database and into the failure's message.
    assert "green ***" in told["tail"]


def test_no_zombie_is_left_while_the_tool_runs(keep: Callable[..., Run]) -> None:
    run = keep("(sh -c 'echo $$' &); exec sleep 300")
    orphan = int(run.until("command.output")["message"])
    until(lambda: not Path(f"/proc/{orphan}").exists())
    assert run.running


@pytest.mark.thorough
def test_as_pid_1_it_keeps_all_the_same(run_program: Callable[..., Run]) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        missing("no permission to make a pid namespace (unshare --pid)")
    argv = [sys.executable, str(KEEP), "60", "sh", "-c", f"trap '' TERM; {SCATTER} while :; do sleep 300; done"]
    run = run_program([*unshare, "--mount-proc", *argv], env={"MARK": mark("pid-1")})
    run.until("command.output")
    first = descendants(run.pid)[0]
    assert status(first)["NSpid"].split()[-1] == "1"
    os.kill(first, signal.SIGTERM)
    assert run.wait(3) == 128 + signal.SIGTERM
    until(lambda: marked("pid-1") == [], timeout=2)


@pytest.mark.thorough
def test_a_frozen_holder_keeps_nothing_alive_for_long(keep: Callable[..., Run]) -> None:
    """They must end before PostgreSQL can give the lock to somebody else, after 25 s at the earliest."""
    run = keep(f"{SCATTER} exec sleep 300", env={"MARK": mark("frozen")})
    run.until("command.output")
    began = time.monotonic()
    os.kill(run.pid, signal.SIGSTOP)
    until(lambda: marked("frozen") == [run.pid], timeout=25)
    assert time.monotonic() - began > 10
    os.kill(run.pid, signal.SIGCONT)
    assert ended(run)["signal"] == signal.SIGKILL


def test_the_application_finds_no_child_and_no_descriptor_of_it(
    database: Database, run_entrypoint: Callable[..., Run]
) -> None:
    env = {"DATABASE_URL": database.url, "MIGRATION_COMMAND": f"sh -c '{SCATTER.replace(chr(39), chr(34))} exit 0'"}
    run = run_entrypoint("run", "--", "sleep", "300", env={**env, "MARK": mark("application")})
    until(lambda: command_line(run.pid)[:1] == ["sleep"], 20, run.report)
    assert marked("application") == [run.pid]
    assert descendants(run.pid) == []
    # Its loader keeps a library open for a moment.
    until(lambda: open_fds(run.pid).keys() == {0, 1, 2}, what=lambda: str(open_fds(run.pid)))


def test_sigterm_ends_all_within_two_seconds_and_its_sessions(
    database: Database, run_entrypoint: Callable[..., Run]
) -> None:
    database.execute("CREATE TABLE begun (run text, seen int, at timestamptz); CREATE TABLE work (run text)")
    stubborn = f"{sys.executable} {KEEP.with_name('stubborn.py')} psycopg 60"
    env = {"DATABASE_URL": database.url, "MIGRATION_COMMAND": f"sh -c 'setsid {stubborn} & wait'"}
    run = run_entrypoint("migrate", env={**env, "MARK": mark("two-seconds")})
    until(lambda: database.one("SELECT count(*) FROM work"), 20, run.report)
    began = time.monotonic()
    run.terminate()
    assert run.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 2
    until(lambda: marked("two-seconds") == [] and database.sessions(ours=0) == 1, 3)
