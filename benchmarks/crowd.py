"""Several processes at once, and a gate in a migration at which they all arrive."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from benchmarks import application
from benchmarks.measure import BenchmarkError
from benchmarks.stage import cpu_of_family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any, LiteralString, Self

    from benchmarks.peers.tools import Peer
    from benchmarks.stage import Stage
    from benchmarks.target import Target

T = TypeVar("T")

# Timeouts that no benchmark reaches.
PATIENT = {
    "MIGRATION_LOCK_TIMEOUT_MS": "600000",
    "MIGRATION_TIMEOUT_MS": "600000",
    "MIGRATION_DDL_LOCK_TIMEOUT_MS": "600000",
}


def until(condition: Callable[[], T | None], timeout: float, what: str) -> T:
    """Poll `condition` until it returns something true, and return that. Raises BenchmarkError after `timeout` s."""
    found = within(condition, timeout)
    if not found:
        raise BenchmarkError(f"not within {timeout:g} s: {what}")
    return found


def within(condition: Callable[[], T], timeout: float) -> T:
    """Poll `condition` until it returns something true, or for `timeout` seconds; return the last answer."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline  # read first, so that what becomes true at the last moment counts
        found = condition()
        if found or late:
            return found
        time.sleep(0.01)


class Replica:
    """A process in a new session, whose output goes to a file."""

    def __init__(self, argv: Sequence[str | Path], env: Mapping[str, str], output: Path) -> None:
        """Start it."""
        self.output = output
        # A file, not a pipe: a program whose output nobody reads would block.
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                argv,
                env=env,
                cwd=output.parent,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Tell whether it is still running."""
        return self.process.poll() is None

    def text(self) -> str:
        """Return what it has written so far."""
        return self.output.read_text(errors="replace")

    def events(self) -> list[str]:
        """Return the events that entrypoint has logged so far, as JSON."""
        lines = self.text().splitlines(keepends=True)
        return [json.loads(line)["event"] for line in lines if line.startswith("{") and line.endswith("\n")]

    def time_of(self, event: str) -> float:
        """Return when entrypoint logged an event for the last time, in seconds since 1970. Raises BenchmarkError."""
        lines = (json.loads(line) for line in self.text().splitlines(keepends=True) if line.endswith("}\n"))
        times = [datetime.fromisoformat(line["time"]).timestamp() for line in lines if line.get("event") == event]
        if not times:
            raise BenchmarkError(f"no {event}:\n{self.text()[-2000:]}")
        return times[-1]

    def told(self) -> application.Told:
        """Return what the application printed. Raises BenchmarkError if it did not run."""
        found = application.told(self.text())
        if found is None:
            raise BenchmarkError(f"no application:\n{self.text()[-2000:]}")
        return found

    def cpu(self) -> float:
        """Return its user and system time so far, with its children's, in seconds."""
        return cpu_of_family(self.process.pid)

    def kill(self) -> None:
        """Kill it and everything it has started, without warning, like the end of a container."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


class Crowd:
    """Starts replicas of one command. A context manager that kills them all in the end."""

    def __init__(self, stage: Stage, argv: Sequence[str | Path], env: Mapping[str, str]) -> None:
        """Take the command that all of them run."""
        self._directory = stage.empty_folder()
        self._argv = argv
        self._env = env
        self.replicas: list[Replica] = []

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the remaining ones."""
        for replica in self.replicas:
            replica.kill()

    def start(self) -> Replica:
        """Start one more."""
        replica = Replica(self._argv, self._env, self._directory / f"{len(self.replicas)}.log")
        self.replicas.append(replica)
        return replica

    def first(self, gate: Gate) -> Arrival:
        """Wait until a backend waits at the gate. Raises BenchmarkError if none does, or if all end before."""

        def settled() -> list[Arrival] | bool:
            return gate.arrivals() or not any(replica.running for replica in self.replicas)

        found = within(settled, 120)
        if isinstance(found, bool):
            raise BenchmarkError(f"nobody came to the gate:\n{self.replicas[0].text()[-2000:]}")
        return found[0]

    @property
    def waiting(self) -> list[Replica]:
        """Return the replicas of entrypoint that have logged that they wait."""
        return [replica for replica in self.replicas if "lock.waiting" in replica.events()]

    def calm(self, timeout: float) -> None:
        """Wait until all have ended or are idle: hardly any CPU time within a second."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            before = [(replica, replica.cpu()) for replica in self.replicas if replica.running]
            time.sleep(1)
            if all(replica.cpu() - cpu < 0.1 for replica, cpu in before):
                return


class Arrival(NamedTuple):
    """A backend that waits at the gate."""

    pid: int
    since: float
    """When its statement arrived, in seconds since 1970; of several sent at once, the first."""


class Gate:
    """A lock in one database that a migration waits for, so that others can be observed meanwhile."""

    SQL = "SELECT pg_advisory_xact_lock(4711);\n"
    """The statement that waits at the gate."""

    def __init__(self, stage: Stage, target: Target) -> None:
        """Close the gate."""
        self._stage = stage
        self._database = target.database
        self._lock = stage.server.connect(target.database)
        self._lock.execute("SELECT pg_advisory_lock(4711)")
        # Use another database for our queries, so that they are not counted in this one.
        self._outside = stage.server.connect()

    def __enter__(self) -> Self:
        """Return itself; it is already closed."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Open it, and close the connections."""
        self.open()
        self._outside.close()

    def open(self) -> None:
        """Open it. May be called twice."""
        self._lock.close()

    def arrivals(self) -> list[Arrival]:
        """Return the backends that wait at the gate."""
        rows = self.ask(
            "SELECT pid, extract(epoch FROM query_start)::float8 FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted AND datname = %s ORDER BY query_start",
            self._database,
        )
        return [Arrival(*row) for row in rows]

    def newcomer(self, known: set[int]) -> Arrival | None:
        """Return the backends that wait at the gate and are not among the known ones."""
        return next((arrival for arrival in self.arrivals() if arrival.pid not in known), None)

    def holder(self) -> int:
        """Return the backend that has the lock of entrypoint's guard. Raises BenchmarkError if none has it."""
        rows = self.ask(
            "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory'"
            " AND classid = 1885824368 AND mode = 'ExclusiveLock' AND granted AND datname = %s",
            self._database,
        )
        if not rows:
            raise BenchmarkError("nobody has the lock")
        pid: int = rows[0][0]
        return pid

    def backends(self) -> set[int]:
        """Return all client backends in this database, including the gate's."""
        return {row[0] for row in self.ask("SELECT pid FROM pg_stat_activity WHERE datname = %s", self._database)}

    def names(self) -> set[str]:
        """Return the application names of these clients."""
        rows = self.ask("SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = %s", self._database)
        return {row[0] for row in rows}

    def counts(self) -> tuple[int, int]:
        """Return how many transactions and sessions of this database the backends have reported so far."""
        counted = "SELECT xact_commit + xact_rollback, sessions FROM pg_stat_database WHERE datname = %s"
        ((transactions, sessions),) = self.ask(counted, self._database)
        return transactions, sessions

    def end(self, pid: int) -> None:
        """End a backend."""
        self.ask("SELECT pg_terminate_backend(%s)", pid)

    def committed(self, table: str) -> float | None:
        """Return when a table's creation was committed, in seconds since 1970; None if it was not.

        Opens one more session in that database.
        """
        with self._stage.server.connect(self._database) as connection:
            row = connection.execute(
                "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM pg_class WHERE relname = %s",
                (table,),
            ).fetchone()
        return row[0] if row else None

    def ask(self, question: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query about the whole server."""
        return self._outside.execute(question, parameters).fetchall()


@contextlib.contextmanager
def rivals(stage: Stage, target: Target, peer: Peer, slow: Mapping[str, str]) -> Iterator[Crowd]:
    """Return a crowd of a peer that has to apply `slow`, in a database where it has applied something before.

    On an empty database, some conflict when they create their tables.
    """
    # Not 000: goose and tern begin with 1.
    applied = {"001_before.sql": "CREATE TABLE before ();\n"}
    later = {f"{int(name[:3]) + 1:03d}{name[3:]}": text for name, text in slow.items()}
    commands = []
    for files in (applied, applied | later):
        folder = stage.empty_folder()
        peer.write(folder, files)
        commands.append(peer.command(folder, target))
    stage.spawner.run(*commands[0])
    with Crowd(stage, *commands[1]) as crowd:
        yield crowd


@contextlib.contextmanager
def entrypoints(
    stage: Stage, target: Target, folder: Path, *, app: Sequence[str | Path] = ("true",)
) -> Iterator[Crowd]:
    """Return a crowd of `entrypoint run -- app`."""
    env = stage.environment(target, folder, LOG_FORMAT="json", **PATIENT)
    with Crowd(stage, [stage.entrypoint, "run", "--", *app], env) as crowd:
        yield crowd
