"""A running container: its process, its log, its end."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from kit.processes import PROC, StillWaitingError, alive, until

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType
    from typing import Self

    from images.kit.engine import Engine
    from kit.processes import Record


class Container:
    """A container in an engine; a context manager that removes it, running or not."""

    def __init__(self, engine: Engine, name: str) -> None:
        """`name` is its name or its id."""
        self.engine = engine
        self.name = name

    def __enter__(self) -> Self:
        """Return itself: it is already started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove it."""
        self.engine.run("rm", "--force", "--volumes", self.name, check=False)

    def __repr__(self) -> str:
        """Return what a failed assertion should show."""
        return f"<Container {self.name[:12]}>\n{self.output()}"

    def state(self, template: str) -> str:
        """Return the result of `docker inspect --format` for a Go `template`."""
        return self.engine.run("inspect", "--type=container", "--format", template, self.name).stdout.strip()

    @property
    def running(self) -> bool:
        """Return whether its process is alive."""
        return self.state("{{.State.Running}}") == "true"

    @property
    def pid(self) -> int:
        """Return the pid, on the machine, of the container's pid 1; 0 if it has ended."""
        return int(self.state("{{.State.Pid}}"))

    def processes(self) -> list[int]:
        """Return the pids, on the machine, of all processes in the container's pid namespace."""
        namespace = (PROC / str(self.pid) / "ns" / "pid").readlink()
        found = []
        for entry in PROC.iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if (entry / "ns" / "pid").readlink() == namespace and alive(int(entry.name)):
                        found.append(int(entry.name))
        return sorted(found)

    def exec(self, *command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in it, like `docker exec`; the options are those of `Engine.run`."""
        return self.engine.run("exec", self.name, *command, check=check, **options)

    # Its end

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end and return the exit code."""
        until(lambda: not self.running, timeout, lambda: f"the end of {self!r}")
        return int(self.state("{{.State.ExitCode}}"))

    def stop(self, grace: int = 10) -> tuple[float, int]:
        """Stop it like `docker stop`, with SIGKILL after `grace` seconds; return the time taken and the exit code."""
        began = time.monotonic()
        self.engine.run("stop", "--time", str(grace), self.name)
        return time.monotonic() - began, int(self.state("{{.State.ExitCode}}"))

    # Its output

    @property
    def stdout(self) -> str:
        """Return what it has written to stdout so far."""
        return self.engine.run("logs", self.name).stdout

    @property
    def stderr(self) -> str:
        """Return what it has written to stderr so far."""
        return self.engine.run("logs", self.name).stderr

    def output(self) -> str:
        """Return both, for messages of failed assertions."""
        done = self.engine.run("logs", self.name, check=False)
        return f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"

    def logs(self, event: str | None = None) -> list[Record]:
        """Return the records of our JSON log on stderr, all or those of one event; ignore other lines."""
        records = []
        for line in self.stderr.splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    record = json.loads(line)
                    if event is None or record.get("event") == event:
                        records.append(record)
        return records

    def until(self, event: str, timeout: float = 30) -> Record:
        """Wait for a record of our log and return it; fail as soon as the container has ended without it."""

        def found() -> Record | None:
            ended = not self.running  # read before the log, so that nothing slips through
            records = self.logs(event)
            if not records and ended:
                msg = f"ended without {event}: {self!r}"
                raise StillWaitingError(msg)
            return records[0] if records else None

        record = until(found, timeout, lambda: f"{event} in the log of {self!r}")
        assert record is not None
        return record

    def until_output(self, text: str, timeout: float = 30) -> None:
        """Wait until it has written `text` to stdout; fail as soon as it has ended without that."""

        def found() -> bool:
            ended = not self.running
            if text in self.stdout:
                return True
            if ended:
                msg = f"ended without {text!r}: {self!r}"
                raise StillWaitingError(msg)
            return False

        until(found, timeout, lambda: f"{text!r} from {self!r}")
