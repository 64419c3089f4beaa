"""A database, a directory of migrations, and as many starts of the program as a test needs."""

from __future__ import annotations

import binascii
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kit.migrations import write_migrations
from kit.processes import PROGRAM, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from demo.postgres import Server
    from kit.databases import Database
    from kit.processes import Record, Run

BLIND = Path(__file__).parent / "kit" / "blind"
LEGACY = Path(__file__).parent / "fixtures" / "legacy"

# Stands in for the application: it prints what it was told and its pid.
APPLICATION = (
    "sh",
    "-c",
    'printf "%s|%s|%s|%s" "$ENTRYPOINT_OUTCOME" "$ENTRYPOINT_SCHEMA_VERSION" "$$" "$ENTRYPOINT_ERROR"',
)


class Told(NamedTuple):
    """What the application was told."""

    outcome: str
    version: str
    pid: int
    error: str


def told(run: Run) -> Told:
    """Wait for the application to exit and return what it was told."""
    outcome, version, pid, error = run.ok().stdout.split("|", 3)
    return Told(outcome, version, int(pid), error)


def lock_key(schema: str = "public") -> str:
    """Return the guard's advisory lock as docs/lock.md describes it, deliberately computed separately here."""
    crc = binascii.crc32(schema.encode())
    return f"{int.from_bytes(b'pgep')}, {crc - 2**32 if crc >= 2**31 else crc}"


def load_legacy(database: Database, *, rows: bool = True) -> None:
    """Give `database` what the earlier system leaves behind."""
    database.execute((LEGACY / "schema.sql").read_text())
    if rows:
        database.execute((LEGACY / "rows.sql").read_text())


def needs_odd_strings(server: Server) -> None:
    """Skip the test on version 19 and later, where every string is standard and no COMMIT can hide in one."""
    if server.version >= 19:
        pytest.skip("standard_conforming_strings cannot be off since PostgreSQL 19")


def odd_strings(database: Database) -> None:
    r"""Make this database read \' as an escape in strings, or skip the test."""
    needs_odd_strings(database.server)
    database.execute(f"ALTER DATABASE {database.name} SET standard_conforming_strings TO off")


def blind(scene: Scene) -> Scene:
    """Return a scene whose program ignores the database's string setting, so that a COMMIT can hide."""
    if PROGRAM[0] != sys.executable:
        pytest.skip("another build of the program cannot be made blind")
    odd_strings(scene.database)

    def launch(*args: str, env: Mapping[str, str], **options: Any) -> Run:
        return scene.launch(*args, env={**env, "PYTHONPATH": str(BLIND)}, **options)

    return replace(scene, launch=launch)


class Gate:
    """A lock that a migration waits for, so that a test can look around while the migration runs."""

    PASS = "SELECT pg_advisory_xact_lock(4711);"
    """The statement that waits at the gate."""

    def __init__(self, database: Database) -> None:
        """Close the gate."""
        self._database = database
        self._connection = database.connect()
        self._connection.execute("SELECT pg_advisory_lock(4711)")

    def __enter__(self) -> Self:
        """Return the gate, which is already closed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Open it."""
        self.open()

    def open(self) -> None:
        """Let everybody through. May be called twice."""
        self._connection.close()

    def arrival(self, timeout: float = 15) -> int:
        """Wait until somebody waits at the gate and return that backend's pid."""
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        found = until(lambda: self._connection.execute(waiting).fetchall(), timeout, "a migration at the gate")
        assert len(found) == 1, f"several migrations run at once: {found}"
        pid = found[0][0]
        assert isinstance(pid, int)
        return pid


@dataclass(frozen=True)
class Scene:
    """What most tests need."""

    database: Database
    migrations: Path
    launch: Callable[..., Run]

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write migration files."""
        write_migrations(self.migrations, files)

    def start(self, *command: str, url: str = "", **env: str | int) -> Run:
        """Start `run` with an application that prints what it was told, or another `command`; do not wait."""
        environment = {
            "DATABASE_URL": url or self.database.url,
            # A gate is a lock like any other, so allow for a long wait.
            "MIGRATION_DDL_LOCK_TIMEOUT_MS": "60000",
            **{name: str(value) for name, value in env.items()},
        }
        return self.launch(*(command or ("run", "--", *APPLICATION)), env=environment)

    def run(self, url: str = "", **env: str | int) -> Told:
        """Start, wait, and return what the application was told."""
        return told(self.start(url=url, **env))

    def migrate(self, url: str = "", **env: str | int) -> Run:
        """Run the command `migrate` to completion."""
        run = self.start("migrate", url=url, **env)
        run.wait()
        return run

    def migrated(self, url: str = "", **env: str | int) -> Run:
        """Run the command `migrate`, which must succeed."""
        return self.start("migrate", url=url, **env).ok()

    def ledger(self) -> list[tuple[Any, ...]]:
        """Return the number and status of every row."""
        return self.database.rows("SELECT migration_number, status FROM schema_migrations ORDER BY 1")

    def lock(self) -> dict[str, Any]:
        """Return the lock's row."""
        row = self.database.one("SELECT to_jsonb(l) FROM migration_lock l WHERE id = 1")
        assert isinstance(row, dict)
        return row

    def lock_is_free(self) -> bool:
        """Tell whether nobody holds the lock: neither the row nor the guard's advisory lock."""
        row = self.lock()
        guard = self.database.one(f"SELECT pg_try_advisory_xact_lock({lock_key()})")
        return bool(guard) and not any(value for name, value in row.items() if name != "id")

    def backends(self, token: str) -> list[tuple[Any, ...]]:
        """Return the backends of the process with this token: pid, state, and whether it is the guard's."""
        return self.database.rows(
            "SELECT pid, state, EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory'"
            f" AND l.classid = {lock_key().split(',')[0]} AND l.mode = 'ExclusiveLock')"
            " FROM pg_stat_activity a WHERE application_name = %s ORDER BY pid",
            (application_of(token),),
        )

    def guard_pid(self, token: str) -> int:
        """Return the pid of the backend that holds the guard's lock."""
        (guard,) = (pid for pid, _, guards in self.backends(token) if guards)
        assert isinstance(guard, int)
        return guard


def token_of(run: Run) -> str:
    """Wait until the process has the lock and return the lease's token, as it is in the lock's row."""
    return str(run.until("lock.acquired")["token"])


def application_of(token: str) -> str:
    """Return the `application_name` of the process with a lease's token: the token without the lease's number."""
    return f"entrypoint:{token.partition('.')[0]}"


@contextmanager
def namesake(database: Database, token: str) -> Iterator[Callable[[], bool]]:
    """Open a transaction of the application whose session is named like a holder's; yield whether it is still there.

    Behind a pooler, a server session keeps its application_name for the next client that sets none.
    """
    with database.connect(application_name=application_of(token)) as connection, connection.transaction():
        yield lambda: connection.execute("SELECT 1").fetchone() == (1,)


def errors(run: Run) -> list[Record]:
    """Return the log's errors. A failure must be reported once, and never with a traceback."""
    assert "Traceback" not in run.stderr, run.report()
    assert "Internal error" not in run.stderr, run.report()
    return [record for record in run.logs() if record["level"] == "error"]


def only_error(run: Run) -> Record:
    """Return the only error in the log, which must have a remedy."""
    found = errors(run)
    assert len(found) == 1, run.report()
    assert found[0].get("remedy") or "faults" in found[0], found[0]
    return found[0]


def warnings(run: Run) -> list[str]:
    """Return the messages of the log's warnings."""
    return [record["message"] for record in run.logs() if record["level"] == "warning"]
