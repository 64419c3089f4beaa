"""Where phases and faults meet: one database, one start that something happens to, and perhaps another start."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from demo.postgres import HOST
from faults.machinery import NAME, Disk
from kit.databases import Database
from kit.migrations import write_migrations
from kit.processes import Run, until
from kit.proxy import Proxy
from scene import APPLICATION, Gate, lock_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from faults.machinery import Machinery

# No piece of it appears in any text by chance.
PASSWORD = "Quastenflosser@17/moorhuhn"
SECRETS = ("Quastenflosser", "moorhuhn")

VERSIONS = (1, 2, 3)
TOOL = Path(__file__).with_name("tool.py")


class Budgets(NamedTuple):
    """The settings that limit a start, in milliseconds."""

    attempts: int
    backoff: int
    timeout: int
    lock: int
    migration: int

    @property
    def promise(self) -> float:
        """In how many seconds the application is reached, whatever the database does."""
        pauses = self.backoff * ((1 << self.attempts - 1) - 1)  # each twice as long as the one before
        return (self.attempts * self.timeout + pauses + self.lock + self.migration) / 1000 + 2

    def environment(self) -> dict[str, str]:
        """Return the variables."""
        return {
            "DB_CONNECT_ATTEMPTS": str(self.attempts),
            "DB_CONNECT_BACKOFF_MS": str(self.backoff),
            "DB_CONNECT_TIMEOUT_MS": str(self.timeout),
            "MIGRATION_LOCK_TIMEOUT_MS": str(self.lock),
            "MIGRATION_TIMEOUT_MS": str(self.migration),
        }


USUAL = Budgets(attempts=5, backoff=400, timeout=1500, lock=6000, migration=6000)
# For faults that last until the program has given up.
SHORT = Budgets(attempts=2, backoff=100, timeout=1000, lock=1500, migration=3000)
# For the start that has to repair everything afterwards.
PATIENT = Budgets(attempts=5, backoff=200, timeout=5000, lock=20_000, migration=20_000)


def migrations() -> dict[str, str]:
    """Return three migrations that can run only once; each notes that it ran, and the second waits at the gate."""
    files = {}
    for number in VERSIONS:
        first = "CREATE TABLE step (number integer NOT NULL);\n" if number == 1 else ""
        gate = f"{Gate.PASS}\n" if number == 2 else ""
        # Too large for the existing pages, so a full disk is noticed.
        files[f"{number:03d}_step.sql"] = (
            f"{first}CREATE TABLE thing_{number} (id integer PRIMARY KEY, text text);\n{gate}"
            f"INSERT INTO thing_{number} SELECT i, repeat('x', 1000) FROM generate_series(1, 100) AS i;\n"
            f"INSERT INTO step VALUES ({number});\n"
        )
    return files


def outside() -> dict[str, str]:
    """Return the second migration as a file outside a transaction; everything in it can also run only once."""
    return {
        "002_step.sql": "-- entrypoint: no-transaction\n"
        "CREATE TABLE thing_2 (id integer PRIMARY KEY, text text);\n"
        "INSERT INTO thing_2 SELECT i, repeat('x', 1000) FROM generate_series(1, 100) AS i;\n"
        "CREATE INDEX CONCURRENTLY thing_2_first ON thing_2 (id);\n"
        "BEGIN;\nINSERT INTO step VALUES (2);\nCOMMIT;\n"
        "CREATE INDEX CONCURRENTLY thing_2_second ON thing_2 (id);\n"
    }


_numbers = itertools.count(1)


class Stage:
    """One cell's database, proxy, migrations and processes. A context manager; nothing survives its end."""

    def __init__(self, machinery: Machinery, directory: Path, *, small_disk: bool = False) -> None:
        """Use a `directory` that belongs to this stage.

        With `small_disk`, the database is on a disk that can be filled.
        """
        self.machinery = machinery
        self.server = machinery.server
        self.directory = directory
        self.database = Database(self.server, f"cell_{next(_numbers)}")
        self.proxy = Proxy(self.server.port)
        self.budgets = USUAL
        self.environment: dict[str, str] = {}
        """Only for the subject."""
        self.command: dict[str, str] = {}
        """For every start: another migration tool, if the stage has one."""
        self.runs: list[Run] = []
        self.promises: dict[int, float] = {}
        """By pid, when each run must have ended, on the clock of `time.monotonic()`."""
        self.subject: Run | None = None
        self.gate: Gate | None = None
        self.held = contextlib.ExitStack()
        """What a phase holds until it lets go."""
        self._small_disk = small_disk
        self._stack = contextlib.ExitStack()
        self._log_mark = 0

    def __enter__(self) -> Self:
        """Create the database and write the migrations."""
        self.machinery.restore()
        self._log_mark = self.server.log_size()
        with self.server.connect() as connection:
            tablespace = ""
            if self._small_disk:
                self.machinery.disk.free()
                tablespace = f"TABLESPACE {Disk.TABLESPACE}"
            connection.execute(f"CREATE DATABASE {self.database.name} TEMPLATE template0 {tablespace}".encode())
        self._stack.callback(self._drop)
        write_migrations(self.directory / "migrations", migrations())
        self._stack.enter_context(self.proxy)
        self._stack.enter_context(self.held)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all processes and drop the database."""
        self._stack.close()

    def _drop(self) -> None:
        self.machinery.restore()
        self.database.drop()

    # Starts

    def start(
        self,
        *,
        direct: bool = False,
        budgets: Budgets | None = None,
        on_failure: str = "start",
        env: Mapping[str, str] | None = None,
        named: bool = False,
    ) -> Run:
        """Start the program, through the proxy unless `direct`; with `named`, at a name that the name server knows."""
        port = self.server.port if direct else self.proxy.port
        url = self.server.url(self.database.name, password=PASSWORD, port=port, sslmode="disable", gssencmode="disable")
        if named:
            url = url.replace(f"@{HOST}:", f"@{NAME}:")
        environment = {
            "DATABASE_URL": url,
            "MIGRATION_ON_FAILURE": on_failure,
            "MIGRATION_DDL_LOCK_TIMEOUT_MS": "60000",  # a gate is a lock like any other
            "LOG_LEVEL": "debug",
            **(budgets or self.budgets).environment(),
            **self.command,
            **(env or {}),
        }
        prefix = self.machinery.names.prefix if named else ()
        argv = [*prefix, sys.executable, "-m", "entrypoint", "run", "--", *APPLICATION]
        run = self._stack.enter_context(Run(argv, directory=self.directory, env=environment))
        self.runs.append(run)
        self.promises[run.pid] = run.started + (budgets or self.budgets).promise
        return run

    def start_subject(self, on_failure: str, *, named: bool = False) -> Run:
        """Start the process that the fault is for."""
        self.subject = self.start(on_failure=on_failure, env=self.environment, named=named)
        return self.subject

    @property
    def victim(self) -> Run:
        """Return the process that the fault is for."""
        assert self.subject is not None
        return self.subject

    # What is there

    def close_gate(self) -> Gate:
        """Let the second migration wait in the middle."""
        self.gate = Gate(self.database)
        self.held.callback(self.gate.open)
        return self.gate

    def backends(self, *, guard: bool) -> list[int]:
        """Return the subject's backends that hold the guard's lock, or those that do not."""
        ports = [link.server.transport.get_extra_info("sockname") for link in self.proxy.links if link.server.transport]
        rows = self.database.rows(
            "SELECT pid, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory'"
            f" AND l.classid = {lock_key().split(',', maxsplit=1)[0]} AND l.mode = 'ExclusiveLock')"
            " FROM pg_stat_activity a WHERE client_port = ANY(%s) AND application_name LIKE 'entrypoint:%%'",
            ([name[1] for name in ports if name],),
        )
        return [pid for pid, guards in rows if guards == guard]

    def await_gate(self) -> None:
        """Wait until a migration is at the gate in this database, not in another stage's on the same server."""
        waiting = (
            "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()"
            " WHERE l.locktype = 'advisory' AND l.objid = 4711 AND NOT l.granted"
        )
        found = until(lambda: self.database.rows(waiting), 15, lambda: f"a migration at the gate: {self.report()}")
        assert len(found) == 1, f"several migrations run at once: {found}"

    def go_outside(self) -> None:
        """Let the second migration run outside a transaction."""
        write_migrations(self.directory / "migrations", outside())

    def use_tool(self) -> None:
        """From now on, let a tool run after the files in every start."""
        self.database.execute("CREATE TABLE tool_step (number integer NOT NULL)")
        self.command = {
            "MIGRATIONS_DIR": str(self.directory / "migrations"),
            "MIGRATION_COMMAND": shlex.join([sys.executable, str(TOOL)]),
            "MIGRATION_COMMAND_INPUTS": str(TOOL),
            "MIGRATION_COMMAND_STATE": "tool_history",
        }

    def hold_index(self) -> contextlib.ExitStack:
        """From now on, let every new concurrent build wait in its last part, until the result is closed."""
        reader = self.database.connect()
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        stack = contextlib.ExitStack()
        stack.callback(reader.close)
        self.held.callback(stack.close)
        return stack

    def await_index(self, name: str) -> None:
        """Wait until a concurrent build of the index waits."""
        building = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            f" AND query LIKE 'CREATE INDEX CONCURRENTLY {name} %'"
        )
        until(lambda: self.database.rows(building), 15, lambda: f"the build of {name}: {self.report()}")

    def hold(self, table: str) -> contextlib.ExitStack:
        """Let nobody write a table, though everybody may read it, until the phase lets go or the result is closed."""
        locker = self.database.connect()
        locker.execute(f"BEGIN; LOCK TABLE {table} IN SHARE MODE".encode())
        stack = contextlib.ExitStack()
        stack.callback(locker.close)
        self.held.callback(stack.close)
        return stack

    def await_queue(self, table: str) -> None:
        """Wait until somebody waits to write a table that is held."""
        queued = (
            "SELECT l.pid FROM pg_locks l WHERE NOT l.granted AND l.mode = 'RowExclusiveLock'"
            f" AND l.relation = '{table}'::regclass"
        )
        until(lambda: self.database.rows(queued), 10, lambda: f"somebody at {table}: {self.report()}")

    def ours(self) -> int:
        """Return how many sessions the program has."""
        return int(
            self.database.one(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name ~ '^entrypoint:'"
            )
        )

    def await_message(self, pattern: bytes, *, deaf: bool, deliver: bool, start: str) -> None:
        """Start the subject; return once it has sent `pattern`. If `deaf`, it gets no answer for now."""

        def act(proxy: Proxy) -> None:
            if deaf:
                proxy.deafen()

        passed = self.proxy.when_client_sends(pattern, act, deliver=deliver)
        subject = self.start_subject(start)
        until(lambda: passed.is_set() or not subject.running, 20, lambda: f"{pattern!r} from {subject.report()}")
        assert passed.is_set(), f"ended without {pattern!r}: {subject.report()}"

    # Its report

    def report(self) -> str:
        """Return all logs, for a violation."""
        parts = [run.report() for run in self.runs]
        parts.append(f"--- server\n{self.server.log_text(self._log_mark)}")
        with contextlib.suppress(Exception):
            parts.append(f"--- sessions\n{self.sessions()}")
        return "\n\n".join(parts)

    def sessions(self) -> str:
        """Return what all sessions in the database are doing."""
        rows = self.database.rows(
            "SELECT pid, application_name, state, wait_event_type, wait_event, left(query, 100)"
            " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return "\n".join(map(str, rows))


def pause(seconds: float) -> None:
    """Let a fault last for a while: the duration is part of the fault, not a wait for something."""
    time.sleep(seconds)
