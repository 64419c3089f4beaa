"""Reads the database on one persistent connection. Blocks, but never for long; used by one thread at a time."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import NamedTuple

from entrypoint import logs
from entrypoint.database.connect import unavailable
from entrypoint.database.login import Failure
from entrypoint.database.target import database_of, target_of
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError, EntrypointError
from entrypoint.migration.ledger.plan import plan_of
from entrypoint.migration.script.files import REPEATABLES
from entrypoint.migration.script.prepare import load_files
from entrypoint.operations.command_status import read_command
from entrypoint.operations.repeatable_status import read_repetitions
from entrypoint.operations.status import is_guarded, read_ledger, summarise, with_command, with_repetitions
from entrypoint.operations.waiters import Lookout
from entrypoint.operations.whereabouts import whereabouts
from entrypoint.service import snapshot
from entrypoint.service.running import Running
from entrypoint.startup import internal_error
from entrypoint.tool.inputs import want

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.reading import Reading
    from entrypoint.migration.script.files import Directory
    from entrypoint.operations.command_status import CommandStatus
    from entrypoint.operations.repeatable_status import Repetition
    from entrypoint.operations.waiters import Waiters
    from entrypoint.service.running import Excerpt
    from entrypoint.service.snapshot import Snapshot
    from entrypoint.settings import Settings

# Seconds for reading the ledger on an open connection.
_PATIENCE = 2.0
# Seconds that must remain to try again if an old connection turns out to be closed, for example after a restart.
_QUICKLY = 1.0
# Seconds for cancelling a statement, and for reading the files.
_MARGIN = 1.5


class _Answer(NamedTuple):
    """The answer of the database."""

    reading: Reading
    place: Place
    command: CommandStatus | None
    repetitions: tuple[Repetition, ...]
    statement: Excerpt | None
    waiting: Waiters | None


class _Files(NamedTuple):
    """The migration files, and what shows whether they have changed."""

    signature: tuple[tuple[str, int, int, int], ...]
    directory: Directory


class StatusReader:
    """Compares the files with the database on request."""

    def __init__(self, settings: Settings) -> None:
        """Check the address, without connecting. Raises ConfigurationError."""
        self._settings = settings
        self._target = target_of(settings.address, token=os.urandom(8).hex())
        self.database = database_of(self._target)
        """The database's name."""
        self._session: Session | None = None
        self._place: Place | None = None
        """Where the ledger was found on this connection."""
        self._files: _Files | None = None
        self._lookout = Lookout()
        self._running = Running()
        self._trouble: str | None = None
        self._reading_now = threading.Lock()
        self.reads = 0
        """How often the database has been read, including failed attempts."""

    @property
    def longest(self) -> float:
        """How many seconds one `read` may take."""
        return self._settings.connect.timeout + _PATIENCE + _MARGIN

    def read(self) -> Snapshot:
        """Return the current status, or why there is none. Never raises."""
        with self._reading_now:
            return self._read()

    def _read(self) -> Snapshot:
        self.reads += 1
        taken = time.time()
        try:
            found = self._ask(taken)
        except EntrypointError as error:
            found = snapshot.of_failure(error, database=self.database, taken=taken)
        except Exception as error:  # noqa: BLE001 - an internal error must not end the service
            self.close()
            found = snapshot.of_failure(internal_error(error), database=self.database, taken=taken)
        found = replace(found, where=whereabouts(self._settings.role).line.strip())
        self._tell(found)
        return found

    def _ask(self, taken: float) -> Snapshot:
        answer = self._reading()
        plan = plan_of(self.directory().files, answer.reading.rows)
        refuse = self._settings.refuse_out_of_order
        status = summarise(plan, answer.reading, answer.place, refuse_out_of_order=refuse)
        status = with_command(with_repetitions(status, answer.repetitions), answer.command)
        found = snapshot.of_status(status, database=self.database, taken=taken)
        return replace(found, statement=answer.statement, waiting=answer.waiting)

    def directory(self) -> Directory:
        """Return the migration files, and read them again only if one has changed. Raises EntrypointError."""
        path = self._settings.migrations_dir
        signature = _signature(path)
        if self._files is None or signature is None or self._files.signature != signature:
            repeating = self._settings.command is None
            self._files = _Files(signature or (), load_files(path, self._settings.file_limit, repeating=repeating))
        return self._files.directory

    def leave(self) -> None:
        """Close the connection, unless another thread is still using it; the process is about to end."""
        if self._reading_now.acquire(blocking=False):
            self.close()

    def close(self) -> None:
        """End the connection."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _reading(self) -> _Answer:
        if self._session is not None:
            patience = Deadline(_PATIENCE)
            try:
                return self._read_on(self._session, patience)
            except ConnectionLostError:
                # A closed old connection is not worth a report. A server that does not answer is.
                if patience.remaining() < _QUICKLY:
                    raise
        try:
            self._session = self._target.connect(self._settings.connect.timeout)
        except Failure as failure:
            raise unavailable(failure, self._target, attempts=1) from None
        self._place = None
        return self._read_on(self._session, Deadline(_PATIENCE))

    def _read_on(self, session: Session, patience: Deadline) -> _Answer:
        try:
            reading, self._place = read_ledger(session, self._place, self._settings, patience)
            command = None
            if self._settings.command is not None:
                wanted, role, guarded = want(self._settings.command), self._settings.role, is_guarded(reading)
                command = read_command(session, self._place, wanted, role, patience, guarded=guarded)
            repetitions = read_repetitions(session, self._place, self.directory(), self._settings)
            statement, waiting = self._holders(session, self._place, reading, patience)
        finally:
            if not session.usable:
                self.close()
        return _Answer(reading, self._place, command, repetitions, statement, waiting)

    def _holders(
        self, session: Session, place: Place, reading: Reading, patience: Deadline
    ) -> tuple[Excerpt | None, Waiters | None]:
        """Return what a live holder is doing, and who waits for it."""
        lock = reading.lock
        if not is_guarded(reading):
            self._lookout.forget()
            return None, None
        waiting = self._lookout.look(session, place, lock and lock.token, patience)
        if lock is None or not lock.held:
            return None, waiting
        return self._running.statement(lock, self.directory(), escapes=session.escapes), waiting

    def _tell(self, found: Snapshot) -> None:
        """Log when the answers stop and when they come back, but not every second."""
        failure = found.failure
        if failure is None:
            if self._trouble is not None:
                logs.event(logs.INFO, "service.recovered", f"{self.database} can be read again")
            self._trouble = None
        elif failure.message != self._trouble:
            self._trouble = failure.message
            logs.event(logs.WARNING, failure.event, failure.message, remedy=failure.remedy or None)


def _listed(path: str) -> list[tuple[str, os.stat_result]]:
    with os.scandir(path) as entries:
        return [(entry.name, entry.stat()) for entry in entries]


def _signature(path: str) -> tuple[tuple[str, int, int, int], ...] | None:
    """Return names, times and sizes of everything in a directory; None if it is missing or cannot be read."""
    if not path:
        return None
    try:
        found = _listed(path)
        if any(name == REPEATABLES for name, _ in found):
            below = os.path.join(path, REPEATABLES)
            found += [(os.path.join(REPEATABLES, name), stat) for name, stat in _listed(below)]
    except NotADirectoryError:
        pass
    except OSError:
        return None
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in found))
