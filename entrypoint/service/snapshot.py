"""What the service knows at one moment: the status, or why there is none. A plain value."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from entrypoint.errors import DatabaseUnavailableError, EntrypointError
from entrypoint.operations.status import APPLIED
from entrypoint.redaction import foreign_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.ledger.reading import LockRow
    from entrypoint.operations.status import Line, Status, StatusName
    from entrypoint.operations.waiters import Waiters
    from entrypoint.service.running import Excerpt


class Unavailable(NamedTuple):
    """Why there is no answer, without secrets."""

    event: str
    """Its event in the log: database.unavailable, files.invalid, …"""
    message: str
    remedy: str
    reachable: bool
    """Whether the database answered all the same."""


@dataclass(frozen=True)
class Snapshot:
    """Either a status or a failure, with all texts redacted."""

    database: str
    """The name of the database, to distinguish several; without the address."""
    taken: float
    """When the database was read, in seconds since 1970."""
    status: Status | None
    failure: Unavailable | None
    where: str = ""
    """Which database it is, for a person: `shop on db:5432 as shop_owner, schema public`."""
    statement: Excerpt | None = None
    """The statement that the lock's holder is running, if known."""
    waiting: Waiters | None = None
    """Who waits for the lock; None while it is free."""

    @property
    def taken_at(self) -> str:
        """When the database was read, as in 2026-11-22T10:30:00.123Z."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.taken))
        return f"{moment}.{int(self.taken % 1 * 1000):03d}Z"

    @property
    def reachable(self) -> bool:
        """Whether the database answered."""
        return self.failure is None or self.failure.reachable

    @property
    def name(self) -> StatusName:
        """The status in one word; `error` also if there is no answer."""
        return "error" if self.status is None else self.status.name

    @property
    def applied(self) -> tuple[Line, ...]:
        """The applied migrations in order, including those whose file has changed or is missing."""
        return self.lines(*APPLIED)

    @property
    def pending(self) -> tuple[Line, ...]:
        """The migrations that have not been tried yet."""
        return self.lines("pending")

    @property
    def failed(self) -> tuple[Line, ...]:
        """The failed migrations, with their errors."""
        return self.lines("failed")

    @property
    def running(self) -> tuple[Line, ...]:
        """Files outside a transaction that are running, or were interrupted."""
        return self.lines("running")

    @property
    def changed(self) -> tuple[Line, ...]:
        """The applied migrations whose file has changed."""
        return self.lines("changed")

    @property
    def missing(self) -> tuple[Line, ...]:
        """The applied migrations whose file is missing although later files exist."""
        return self.lines("missing")

    @property
    def ahead(self) -> tuple[Line, ...]:
        """The applied migrations above the last file."""
        return self.lines("ahead")

    def lines(self, *states: str) -> tuple[Line, ...]:
        """Return the migrations in one of these states, in the order of their numbers."""
        return tuple(line for line in self.status.lines if line.state in states) if self.status else ()

    @property
    def lock(self) -> LockRow | None:
        """The lock's row, if the lock is held: the holder, since when, and what it is doing."""
        lock = self.status.lock if self.status else None
        return lock if lock is not None and lock.held else None

    @property
    def last_duration(self) -> float | None:
        """How many seconds the last applied migration took."""
        last = self.status.last if self.status else None
        return None if last is None or last.milliseconds is None else last.milliseconds / 1000

    def documented(self) -> dict[str, object]:
        """Return the answer of the status API."""
        if self.status is not None:
            waiting = None if self.waiting is None else self.waiting.documented()
            data = self.status.documented() | {"database": self.database, "waiting": waiting, "takenAt": self.taken_at}
            return {"success": True, "data": data}
        failure = self.failure
        return {
            "success": False,
            "error": failure.message if failure else "",
            "remedy": failure.remedy if failure else "",
            "takenAt": self.taken_at,
        }

    @cached_property
    def answer(self) -> bytes:
        """The same as JSON, encoded once for all requests within a second."""
        return json.dumps(self.documented(), ensure_ascii=False).encode(errors="replace")


def of_status(status: Status, *, database: str, taken: float) -> Snapshot:
    """Return the snapshot of an answer, with secrets removed from texts in the database."""
    last, lock = status.last, status.lock
    return Snapshot(
        database,
        taken,
        status._replace(
            lines=tuple(map(_without_secrets, status.lines)),
            last=last and _without_secrets(last),
            lock=lock and lock._replace(holder=lock.who, detail=lock.told),
        ),
        None,
    )


def of_failure(error: EntrypointError, *, database: str, taken: float) -> Snapshot:
    """Return the snapshot of a failure."""
    faults = error.fields.get("faults")
    message = "; ".join([error.message, *map(str, faults)]) if isinstance(faults, list) else error.message
    reachable = not isinstance(error, DatabaseUnavailableError)
    failure = Unavailable(error.event, " ".join(message.split()), error.remedy, reachable)
    return Snapshot(database, taken, None, failure)


def _without_secrets(line: Line) -> Line:
    return line._replace(error=line.error and foreign_report(line.error, line.filename))
