"""Runs programs, and observes them from outside through /proc. Every wait here has a timeout."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from kit.warm import Clone, Warm

T = TypeVar("T")
Record = dict[str, Any]

PROC = Path("/proc")


class StillWaitingError(AssertionError):
    """Something did not happen in time. It is an AssertionError, so that pytest counts the test as failed."""


def until(condition: Callable[[], T], timeout: float = 10, what: str | Callable[[], str] = "") -> T:
    """Poll `condition` until it returns something true, and return that; fail with `what` was awaited.

    `what` may be a function, for a message that describes the state at the end.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Read the time first, so that a condition that becomes true at the last moment counts.
        asked = time.monotonic()
        result = condition()
        if result:
            return result
        if asked > deadline:
            awaited = what() if callable(what) else what
            msg = f"not within {timeout:g} s: {awaited or getattr(condition, '__name__', condition)}"
            raise StillWaitingError(msg)
        # Some conditions connect to the database. Leave the processor to the processes that we wait for.
        time.sleep(min(max(0.005, 4 * (time.monotonic() - asked)), 0.05))


# --- /proc ----------------------------------------------------------------------------------------------


def status(pid: int) -> dict[str, str]:
    """Return /proc/PID/status as a dictionary: `SigIgn`, `SigBlk`, `SigCgt`, `VmHWM` and the others.

    `SigIgn` does not include glibc's internal signals.
    """
    lines = (PROC / str(pid) / "status").read_text().splitlines()
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {**found, "SigIgn": without_internal(found["SigIgn"])}


def without_internal(mask: str) -> str:
    """Return a mask of /proc/PID/status without the signals 32 and 33, which no program can set.

    glibc uses them internally. Its posix_spawn leaves both ignored, so they are ignored in everything that `make`
    starts, until the first thread of a process uses the second.
    """
    return f"{int(mask, 16) & ~(0b11 << 31):016x}"


def peak_memory(pid: int) -> int:
    """Return the most memory that the process has used so far, in bytes (VmHWM)."""
    return int(status(pid)["VmHWM"].removesuffix("kB")) * 1024


def open_fds(pid: int) -> dict[int, str]:
    """Return the open descriptors of a process with their targets."""
    found = {}
    for link in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed while we were looking
            found[int(link.name)] = str(link.readlink())
    return dict(sorted(found.items()))


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; after the exec, those of the application."""
    text = (PROC / str(pid) / "cmdline").read_bytes()
    return [os.fsdecode(part) for part in text.split(b"\0")[:-1]]


def environ(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; after the exec, the application's."""
    entries = (PROC / str(pid) / "environ").read_bytes().split(b"\0")[:-1]
    pairs = (os.fsdecode(entry).partition("=") for entry in entries)
    return {name: value for name, _, value in pairs}


@dataclass(frozen=True)
class Stat:
    """The first fields of /proc/PID/stat."""

    pid: int
    state: str
    parent: int
    group: int
    session: int


def stat(pid: int) -> Stat | None:
    """Return the first fields of /proc/PID/stat; None if there is no such process."""
    # Without pathlib and decoding, to be fast: at the end of each run, this is called for every process of the machine.
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = os.read(file, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(file)
    # The name is in parentheses and may contain anything, even parentheses.
    state_, parent, group, session = text[text.rindex(b")") + 1 :].split(None, 4)[:4]
    return Stat(pid, state_.decode(), int(parent), int(group), int(session))


def state(pid: int) -> str:
    """Return the letter of the state (`R`, `S`, `D`, `T`, `Z` …); empty if there is no such process."""
    found = stat(pid)
    return found.state if found else ""


def alive(pid: int) -> bool:
    """Tell whether the process exists and is not a zombie."""
    return state(pid) not in {"", "Z", "X"}


def processes() -> Iterator[Stat]:
    """Yield all processes of the machine."""
    for name in os.listdir(PROC):  # noqa: PTH208 - fast, as in `stat`
        if name.isdecimal() and (found := stat(int(name))):
            yield found


def descendants(pid: int, everybody: Sequence[Stat] = ()) -> list[int]:
    """Return the children of a process, their children, and so on, including zombies."""
    everybody = everybody or list(processes())
    found = [pid]
    for member in found:  # grows during the loop
        found += [other.pid for other in everybody if other.parent == member]
    return found[1:]


# --- A program that runs --------------------------------------------------------------------------------

OUTPUT_FILE = re.compile(r".*/run-\d+\.std(?:out|err)$")
_numbers = itertools.count(1)


class Run:
    """A process, its output so far, and its log. As a context manager, it leaves no process behind.

    The process gets exactly the given environment; only PATH is added if it is missing. It leads a new session, so that
    its children can be found even when it is dead.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes | Path],
        *,
        directory: Path,
        env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        umask: int = -1,
        before_exec: Callable[[], None] | None = None,
        warm: Warm | None = None,
    ) -> None:
        """Start `argv` in `cwd` (by default `directory`); its output goes to files in `directory`.

        `stdout`, `stderr`: descriptors to use instead of these files, for example a terminal's. `before_exec`: runs in
        the child, to ignore or block a signal, or to set a limit. Before that, SIGINT and SIGQUIT are set to their
        defaults, because a shell that runs the tests in the background ignores both. `warm`: if `argv` begins with
        `PROGRAM`, clone this process instead, unless the process must inherit something special.
        """
        ignored = [number for number in (signal.SIGINT, signal.SIGQUIT) if signal.getsignal(number) == signal.SIG_IGN]

        def prepare() -> None:
            for number in ignored:
                signal.signal(number, signal.SIG_DFL)
            if before_exec is not None:
                before_exec()

        number = next(_numbers)
        self.argv = [os.fsdecode(part) for part in argv]
        self._stdout = directory / f"run-{number}.stdout"
        self._stderr = directory / f"run-{number}.stderr"
        self.started = time.monotonic()
        # In append mode, so that a second writer (a shell's `>/dev/stderr`) does not overwrite the first.
        with self._stdout.open("ab") as out, self._stderr.open("ab") as err, warnings.catch_warnings():
            output = (out.fileno() if stdout is None else stdout, err.fileno() if stderr is None else stderr)
            usual = stdin == subprocess.DEVNULL and not pass_fds and umask == -1 and before_exec is None
            clone = None
            if warm is not None and usual and not any(map(os.isatty, output)):
                clone = warm.start(argv[len(PROGRAM) :], _environment(env or {}), cwd or directory, output)
            # Since Python 3.12, `preexec_fn` warns if there are threads, such as a proxy's. Ours takes no locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process: subprocess.Popen[bytes] | Clone = clone or subprocess.Popen(
                argv,
                env=_environment(env or {}),
                cwd=cwd or directory,
                stdin=stdin,
                stdout=output[0],
                stderr=output[1],
                pass_fds=pass_fds,
                umask=umask,
                # Only if it has something to do: without it, Popen uses vfork, which need not copy our page tables.
                preexec_fn=prepare if ignored or before_exec else None,  # noqa: PLW1509 - see above
                start_new_session=True,
            )
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        """Return the run; its process is already running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill what is left of it."""
        self.close()

    def __repr__(self) -> str:
        """Return what a failed assertion shows."""
        code = self.process.poll()
        # Without lone surrogates: pytest-xdist cannot send them, and would end the whole test run.
        command = shlex.join(self.argv).encode(errors="backslashreplace").decode()
        return f"<Run {self.pid} {'running' if code is None else f'exit {code}'}: {command}>"

    # Its end

    def wait(self, timeout: float = 30) -> int:
        """Wait for the end and return the exit code, -n after signal n; fail if it takes too long."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            msg = f"not within {timeout:g} s: the end of {self.report()}"
            raise StillWaitingError(msg) from None

    def ok(self, timeout: float = 30) -> Self:
        """Wait for the end; if the exit code is not 0, fail and show the output."""
        code = self.wait(timeout)
        assert code == 0, self.report()
        return self

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.poll()

    @property
    def running(self) -> bool:
        """Whether it is still running."""
        return self.process.poll() is None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, by default SIGKILL; do nothing if the process has ended."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.kill(signal.SIGTERM)

    def leftovers(self) -> list[int]:
        """Return its descendants, and the other processes of its session, that are alive."""
        everybody = list(processes())
        own = {other.pid for other in everybody if other.session == self.pid} | set(descendants(self.pid, everybody))
        return sorted(pid for pid in own - {self.pid} if alive(pid))

    def close(self) -> None:
        """Kill the process and everything that it has started. May be called twice."""
        for _ in range(10):  # a child may fork in the meantime
            victims = self.leftovers() + ([self.pid] if self.running else [])
            if not victims:
                break
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait(10)
            until(lambda: not any(alive(pid) for pid in victims), 10, f"the end of {victims}")  # noqa: B023

    # Its output

    @property
    def stdout(self) -> str:
        """What it has written to stdout so far."""
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self._stderr.read_text(errors="replace")

    def report(self) -> str:
        """Return the command, its state, and all output, for messages of failed assertions."""
        return f"{self!r}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def logs(self, event: str | None = None) -> list[Record]:
        """Return the records of the JSON log on stderr, or only those of one event. Other lines are ignored."""
        records = []
        for line in self.stderr.splitlines(keepends=True):
            # A line without a line break is still being written.
            if line.startswith("{") and line.endswith("\n"):
                with contextlib.suppress(json.JSONDecodeError):
                    record = json.loads(line)
                    if event is None or record.get("event") == event:
                        records.append(record)
        return records

    def events(self) -> list[str]:
        """Return the events of the log, in order."""
        return [record["event"] for record in self.logs() if "event" in record]

    @property
    def outcome(self) -> str | None:
        """The outcome according to the log: `migrated`, `waited`, `failed` …; None if it is not known yet.

        While the application runs, its ENTRYPOINT_OUTCOME is in `environ(run.pid)`.
        """
        for record in reversed(self.logs()):
            area, _, name = record.get("event", "").partition(".")
            if area == "schema" or record.get("event") == "start.disabled":
                return str(name)
            if record.get("level") in {"error", "critical"}:
                return "failed"
        return None

    def until(self, wanted: str | Callable[[Record], object], timeout: float = 15) -> Record:
        """Wait for a log record, by its event or by a predicate, and return it.

        Fails as soon as the process has ended without it.
        """
        name = wanted if isinstance(wanted, str) else getattr(wanted, "__name__", "a record")

        def found() -> Record | None:
            ended = not self.running  # read before the log, so that nothing is missed
            for record in self.logs():
                if record.get("event") == wanted if isinstance(wanted, str) else wanted(record):
                    return record
            if ended:
                msg = f"ended without {name}: {self.report()}"
                raise StillWaitingError(msg)
            return None

        record = until(found, timeout, lambda: f"{name} in the log of {self.report()}")
        assert record is not None
        return record

    def until_output(self, text: str, timeout: float = 15) -> None:
        """Wait until the application has written `text` to stdout."""
        until(lambda: text in self.stdout, timeout, lambda: f"{text!r} from {self.report()}")


def _environment(env: Mapping[str, str] | Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return `env` as bytes, in the same order, with a PATH at the end if it has none."""
    result = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    result.setdefault(b"PATH", os.environb.get(b"PATH", b"/usr/bin:/bin"))
    return result


# The program under test: this checkout, or ENTRYPOINT_TEST_PROGRAM, such as the self-contained folder's program.
_OTHER = os.environ.get("ENTRYPOINT_TEST_PROGRAM")
OF_THIS_CHECKOUT = not _OTHER
PROGRAM = [_OTHER] if _OTHER else [sys.executable, "-m", "entrypoint"]


def entrypoint(
    *args: str | Path,
    directory: Path,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    **options: Any,
) -> Run:
    """Start the program with these arguments; it is `python -m entrypoint` by default. `options`: those of `Run`."""
    return Run([*PROGRAM, *args], directory=directory, env=env, **options)


# --- What an application sees ---------------------------------------------------------------------------


def compile_look(directory: Path, compiler: str = "cc") -> Path:
    """Compile `programs/look.c`, which prints as JSON everything that a program can observe about its start."""
    source = Path(__file__).parent / "programs" / "look.c"
    program = directory / "look"
    subprocess.run(
        [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source],
        check=True,
        timeout=60,
    )
    return program


@dataclass(frozen=True)
class Observation:
    """The output of `look`: the `facts` as printed, and the environment in bytes and in order."""

    facts: Record

    @classmethod
    def of(cls, run: Run) -> Self:
        """Wait for the end of a run of `look`, and read its output."""
        run.ok()
        return cls(json.loads(run.stdout))

    @property
    def environ(self) -> list[bytes]:
        """The environment as `NAME=value`, in the program's order."""
        return [bytes.fromhex(entry) for entry in self.facts["environ"]]

    @property
    def argv(self) -> list[bytes]:
        """The arguments."""
        return [bytes.fromhex(entry) for entry in self.facts["argv"]]

    def comparable(self) -> Record:
        """Return what must be equal in two runs: everything but the pids and the names of our output files.

        The environment is left out as well, because three variables are added to it on purpose.
        """
        facts = {name: value for name, value in self.facts.items() if name not in {"pid", "environ"}}
        for name in ("pgid", "sid"):  # only whether it is the leader, not the number
            facts[name] = "own" if facts[name] == self.facts["pid"] else facts[name]
        facts["SigIgn"] = without_internal(facts["SigIgn"])
        facts["fds"] = [{**fd, "target": OUTPUT_FILE.sub("(output)", fd["target"])} for fd in facts["fds"]]
        return facts
