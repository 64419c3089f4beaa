"""A story: several replicas, random migrations, random faults at random moments; then its history shows what held.

Unlike in a cell of the matrix, nothing is awaited: faults strike whatever they meet. A story consists of its random
numbers, so the same seed tells it again, as far as the machine's own timing allows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from faults.history import MARKS, PERSON, SLACK, History, Recorder, Script, Start, mark, violations
from faults.stage import PASSWORD, PATIENT, Budgets
from kit.databases import Database
from kit.migrations import write_migrations
from kit.processes import Run, until
from kit.proxy import Proxy
from scene import APPLICATION

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random
    from types import TracebackType
    from typing import Self

    from faults.machinery import Machinery

_BUDGETS = Budgets(attempts=4, backoff=200, timeout=2000, lock=12_000, migration=8000)
_FAULTS_WITHIN = 2.5
_STARTS_WITHIN = 1.0
_numbers = itertools.count(1)


class Blow(NamedTuple):
    """A fault, and when and whom it strikes."""

    at: float
    """Seconds after the first start."""
    fault: str
    target: int
    """Which replica, modulo how many there are."""
    duration: float

    def __str__(self) -> str:
        """Return it as a report shows it."""
        return f"{self.at:.2f} s {self.fault} #{self.target} ({self.duration:.2f} s)"


class Story(NamedTuple):
    """Everything that is drawn beforehand."""

    files: tuple[tuple[str, str], ...]
    scripts: tuple[Script, ...]
    starts: tuple[float, ...]
    """When each replica starts, in seconds after the first."""
    policies: tuple[str, ...]
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        """Return it as a table shows it."""
        return f"{len(self.starts)} replicas, {len(self.scripts)} migrations: {'; '.join(map(str, self.blows))}"


def draw(random: Random, *, pooled: bool = False) -> Story:
    """Return a random story. Behind a pooler nothing can run outside a transaction."""
    files, scripts = [], []
    for number in range(1, random.randint(4, 8) + 1):
        name, text, script = _migration(random, number, outside=not pooled and random.random() < 0.25)
        files.append((name, text))
        scripts.append(script)
    replicas = random.randint(2, 5)
    starts = (0.0, *(random.uniform(0, _STARTS_WITHIN) for _ in range(replicas - 1)))
    policies = tuple(random.choice(("start", "exit")) for _ in starts)
    blows = sorted(
        Blow(
            random.uniform(0.1, _FAULTS_WITHIN),
            random.choice(list(FAULTS)),
            random.randrange(replicas),
            min(random.expovariate(2), 3.0),
        )
        for _ in range(random.randint(1, 5))
    )
    return Story(tuple(files), tuple(scripts), starts, policies, tuple(blows))


def _migration(random: Random, number: int, *, outside: bool) -> tuple[str, str, Script]:
    """Return a migration that notes how far it is. Only we can prevent a second run, or an early one."""
    pause = f"SELECT pg_sleep({random.choice((0, 0.1, 0.3, 0.6, 1.2))});"
    table = f"thing_{number}"
    if outside:
        lines = [
            "-- entrypoint: no-transaction",
            mark(number, 1),
            f"CREATE TABLE IF NOT EXISTS {table} AS SELECT generate_series(1, 1000) AS id;",
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {table}_id ON {table} (id);",
            pause,
            mark(number, 2),
        ]
        return f"{number:03d}_outside.sql", "\n".join(lines), Script(number, 2, outside=True)
    chatty = "DO $$ BEGIN FOR i IN 1..500 LOOP RAISE NOTICE 'row %', i; END LOOP; END $$;"
    # DDL would make a second holder wait, so most have none.
    ddl = random.random() < 0.3
    lines = [
        mark(number, 1),
        f"CREATE TABLE {table} (id integer PRIMARY KEY, text text);" if ddl else "",
        chatty if random.random() < 0.2 else "",
        f"INSERT INTO {table} SELECT i, repeat('x', 100) FROM generate_series(1, 1000) AS i;" if ddl else "",
        pause,
        mark(number, 2),
    ]
    return f"{number:03d}_step.sql", "\n".join(filter(None, lines)), Script(number, 2)


# --- Faults ---------------------------------------------------------------------------------------------


class Replica:
    """A replica, its own proxy to the server, and what has struck it."""

    def __init__(self, run: Run, proxy: Proxy, due: float) -> None:
        """Take a process that has just been started, and the time by which it must have ended."""
        self.run = run
        self.proxy = proxy
        self.began = time.time()
        self.due = due
        self.ended: float | None = None
        self.killed = False
        self.signalled: float | None = None
        self.stopped = 0.0
        """How long it is stopped after a signal."""
        self._goes_on = 0.0
        # In a thread, so that the end is seen at once, whatever else is happening.
        threading.Thread(target=self._await_end, name=f"end of {run.pid}", daemon=True).start()

    def _await_end(self) -> None:
        self.run.process.wait()
        self.ended = time.time()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal that should end it."""
        self.signalled = time.time()
        self.stopped = max(self._goes_on - self.signalled, 0.0)
        self.run.kill(number)

    def stop(self, seconds: float) -> None:
        """Stop it, to continue after `seconds`."""
        self.run.kill(signal.SIGSTOP)
        self._goes_on = max(self._goes_on, time.time() + seconds)
        self.due += seconds
        # We cannot move the time of the signal: it may have ended the process at this very moment.
        if self.signalled is not None:
            self.stopped += seconds

    def story(self) -> Start:
        """Return what became of it."""
        code = self.run.code
        return Start(
            self.run.pid,
            self.began,
            self.due,
            self.ended,
            -1 if code is None else code,
            self.run.stdout,
            self.killed,
            self.signalled,
            self.stopped,
            self.run.stderr,
        )


def _kill(scene: Telling, blow: Blow) -> None:
    replica = scene.replica(blow)
    if replica.run.running:
        replica.killed = True
        replica.run.kill()


def _signal(number: signal.Signals) -> Callable[[Telling, Blow], None]:
    def strike(scene: Telling, blow: Blow) -> None:
        replica = scene.replica(blow)
        # While Python itself starts, it handles SIGINT: the program's first lines have not run yet.
        started = bool(replica.run.stderr)
        if started and replica.run.running and replica.signalled is None:
            replica.signal(number)

    return strike


def _freeze(scene: Telling, blow: Blow) -> None:
    replica = scene.replica(blow)
    if replica.run.running:
        replica.stop(blow.duration)
        scene.later(blow.duration, lambda: replica.run.kill(signal.SIGCONT))


def _backends(action: str, *, guards: bool) -> Callable[[Telling, Blow], None]:
    def strike(scene: Telling, _blow: Blow) -> None:
        holds = (
            "EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' "
            "AND l.mode = 'ExclusiveLock' AND l.granted)"
        )
        scene.database.rows(
            f"SELECT {action}(pid) FROM pg_stat_activity a WHERE datname = current_database()"
            f" AND application_name LIKE 'entrypoint:%' AND {'' if guards else 'NOT '}{holds}"
        )

    return strike


def _crash(scene: Telling, _blow: Blow) -> None:
    """Kill a backend, as the kernel does when out of memory: the server ends all others, and recovers."""
    rows = scene.database.rows(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'entrypoint:%'"
    )
    for (pid,) in rows[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _restart(scene: Telling, blow: Blow) -> None:
    scene.server.kill()
    time.sleep(min(blow.duration, 1.0))
    scene.server.start()


def _freeze_server(scene: Telling, blow: Blow) -> None:
    scene.server.freeze()
    time.sleep(blow.duration)
    scene.server.thaw()


def _cut(scene: Telling, blow: Blow) -> None:
    scene.replica(blow).proxy.cut()


def _deafen(scene: Telling, blow: Blow) -> None:
    proxy = scene.replica(blow).proxy

    def heal() -> None:
        proxy.cut()
        proxy.hear()

    proxy.deafen()
    scene.later(blow.duration, heal)


def _free_by_hand(scene: Telling, _blow: Blow) -> None:
    """Do what operators are told to do."""
    if scene.database.exists("migration_lock"):
        scene.database.execute(
            "UPDATE migration_lock SET locked_at = NULL, locked_by = NULL, process_id = NULL WHERE id = 1"
        )


def _free_stale(scene: Telling, _blow: Blow) -> None:
    with contextlib.suppress(psycopg.errors.UndefinedFunction):
        scene.database.execute("SELECT release_stale_migration_locks()")


def _lock_ledger(scene: Telling, blow: Blow) -> None:
    if scene.database.exists("schema_migrations"):
        connection = scene.database.connect()
        connection.execute("SET lock_timeout = '200ms'")
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            connection.execute("BEGIN; LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE")
        scene.later(min(blow.duration, 2.0), connection.close)


FAULTS: dict[str, Callable[[Telling, Blow], None]] = {
    "SIGKILL": _kill,
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGINT": _signal(signal.SIGINT),
    "SIGSTOP for a while": _freeze,
    "guards terminated": _backends("pg_terminate_backend", guards=True),
    "workers terminated": _backends("pg_terminate_backend", guards=False),
    "workers cancelled": _backends("pg_cancel_backend", guards=False),
    "a backend killed": _crash,
    "server killed and restarted": _restart,
    "server frozen": _freeze_server,
    "connections reset": _cut,
    "connections silent": _deafen,
    "lock freed by an operator": _free_by_hand,
    "stale locks released": _free_stale,
    "ledger locked": _lock_ledger,
}


# --- The telling ----------------------------------------------------------------------------------------


class Telling:
    """One story on its own database. A context manager; nothing survives its end."""

    def __init__(self, machinery: Machinery, directory: Path, story: Story, port: int | None = None) -> None:
        """Tell `story`; the replicas reach the server at `port`, for example a pooler's."""
        self.server = machinery.server
        self.database = Database(self.server, f"story_{os.getpid()}_{next(_numbers)}")
        self.story = story
        self.replicas: list[Replica] = []
        self._machinery = machinery
        self._directory = directory
        self._port = port or self.server.port
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Create the database and the files."""
        self._machinery.restore()
        self.server.create_database(self.database.name)
        self._stack.callback(self._end)
        self.database.execute(MARKS)
        write_migrations(self._directory / "migrations", dict(self.story.files))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all processes and drop the database."""
        self._stack.close()

    def _end(self) -> None:
        self._machinery.restore()
        self.database.drop()

    def tell(self) -> History:
        """Let it all happen, repair everything as a person would, and return the history."""
        with Recorder(self.database) as recorder:
            self._play()
            self._await_ends()
            self._finish()
        return History(
            self.story.scripts,
            recorder.marks(),
            tuple(recorder.samples),
            tuple(replica.story() for replica in self.replicas),
            recorder.ledger(),
        )

    def replica(self, blow: Blow) -> Replica:
        """Return whom a blow strikes, among those started by now."""
        return self.replicas[blow.target % len(self.replicas)]

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Do something in `seconds` from now."""
        self._later.append((time.monotonic() + seconds, act))

    def report(self) -> str:
        """Return the story and all logs."""
        files = "\n".join(f"--- {name}\n{text}" for name, text in self.story.files)
        return "\n\n".join([str(self.story), files, *(replica.run.report() for replica in self.replicas)])

    def _play(self) -> None:
        began = time.monotonic()
        todo: list[tuple[float, Callable[[], object]]] = [
            *(
                (at, lambda policy=policy: self._start(policy))
                for at, policy in zip(self.story.starts, self.story.policies, strict=True)
            ),
            *((blow.at, lambda blow=blow: self._strike(blow)) for blow in self.story.blows),
        ]
        self._later += [(began + at, act) for at, act in todo]
        while self._later:
            self._later.sort(key=lambda item: item[0])
            at, act = self._later.pop(0)
            time.sleep(max(at - time.monotonic(), 0))
            act()

    def _strike(self, blow: Blow) -> None:
        # If the server is already gone, there is nothing to ask it.
        with contextlib.suppress(psycopg.OperationalError):
            FAULTS[blow.fault](self, blow)

    def _start(self, policy: str) -> None:
        self.replicas.append(self._replica(policy, _BUDGETS, self._port))

    def _replica(self, policy: str, budgets: Budgets, port: int) -> Replica:
        proxy = self._stack.enter_context(Proxy(port))
        url = self.server.url(
            self.database.name, password=PASSWORD, port=proxy.port, sslmode="disable", gssencmode="disable"
        )
        environment = {
            "DATABASE_URL": url,
            "MIGRATION_ON_FAILURE": policy,
            "LOG_LEVEL": "debug",
            **budgets.environment(),
        }
        argv = [sys.executable, "-m", "entrypoint", "run", "--", *APPLICATION]
        run = self._stack.enter_context(Run(argv, directory=self._directory, env=environment))
        return Replica(run, proxy, time.time() + budgets.promise)

    def _await_ends(self) -> None:
        latest = max(replica.due for replica in self.replicas) - time.time() + 3 * SLACK
        with contextlib.suppress(AssertionError):  # What has not ended is in the history.
            until(lambda: all(replica.ended is not None for replica in self.replicas), max(latest, 1.0))

    def _finish(self) -> None:
        """Start once more with nothing in the way; finish by hand, as documented, what only a person can judge."""
        for _ in range(len(self.story.scripts) + 1):
            replica = self._replica("exit", PATIENT, self.server.port)
            self.replicas.append(replica)
            replica.run.wait(PATIENT.promise + SLACK)
            if replica.run.code == 0:
                return
            if not self._mend():
                break
        msg = f"the last start did not get everything in: {self.replicas[-1].run.report()}"
        raise AssertionError(msg)

    def _mend(self) -> bool:
        """Finish interrupted migrations; return whether there was one."""
        outside = [script for script in self.story.scripts if script.outside]
        mended = False
        for script in outside:
            held = self.database.rows(
                "SELECT FROM schema_migrations WHERE migration_number = %s AND status <> 'completed'", (script.number,)
            )
            if not held:
                continue
            mended = True
            for step in range(1, script.steps + 1):
                self.database.execute(
                    "INSERT INTO history.mark (migration, step, holder) SELECT %s, %s, %s WHERE NOT EXISTS"
                    " (SELECT FROM history.mark WHERE migration = %s AND step = %s)",
                    (script.number, step, PERSON, script.number, step),
                )
            self.database.execute(
                "UPDATE schema_migrations SET status = 'completed' WHERE migration_number = %s", (script.number,)
            )
        return mended


def tell(machinery: Machinery, directory: Path, story: Story, port: int | None = None) -> tuple[str, str]:
    """Tell a story; return what it violated, with all that is known about it, or an empty text; and its outcomes."""
    with Telling(machinery, directory, story, port) as telling:
        try:
            history = telling.tell()
        except AssertionError as error:
            return f"{error}\n\n{telling.report()}", ""
        found = violations(history)
        outcomes = " ".join(_outcome(start) for start in history.starts)
        if not found:
            return "", outcomes
        told = json.dumps(history._replace(starts=()), indent=1)
        return "\n".join([*found, "", telling.report(), "--- history", told]), outcomes


def _outcome(start: Start) -> str:
    return start.output.partition("|")[0] or f"exit {start.code}".replace(" ", "-")
