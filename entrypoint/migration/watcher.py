"""Keep an eye on a statement that takes long: publish progress, name who blocks it, notice that the lock was freed.

Runs in a thread with a connection of its own, opened only when there is something to watch. If it cannot be
had, nothing else suffers.
"""

from __future__ import annotations

import re
import threading
import time
from typing import NamedTuple

from entrypoint import logs, phase
from entrypoint.database.answers import StatementError
from entrypoint.database.connect import Failure
from entrypoint.deadline import Deadline
from entrypoint.errors import ConnectionLostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from entrypoint.database.answers import Row
    from entrypoint.database.connect import Target
    from entrypoint.database.session import Session
    from entrypoint.migration.lock import Lease

_TICK = 1.0
_PATIENCE = 5.0
_REPORT_EVERY = 10.0
_RECONNECT_AFTER = 10.0
_QUERY_WIDTH = 120


class Activity(NamedTuple):
    """What the worker is doing. Replaced as a whole, so that the thread always reads a consistent one."""

    file: str
    backend_pid: int
    began: float
    """`time.monotonic()` when the file began."""
    since: float
    """`time.monotonic()` when the current statement began."""
    statement: int
    """Counted from 1."""
    statements: int


class Watcher:
    """Watches one lease's worker from its first migration to its last."""

    def __init__(self, lease: Lease, target: Target, connect_timeout: float, ddl_lock_timeout: float) -> None:
        """Watch statements that take longer than some seconds, and in any case before `ddl_lock_timeout` ends them."""
        self.activity: Activity | None = None
        self._lease = lease
        self._target = target
        self._connect_timeout = connect_timeout
        self._patience = min(3.0, ddl_lock_timeout / 2)
        self._session: Session | None = None
        self._stopped = threading.Event()
        self._next_connect = 0.0
        self._next_report = 0.0
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(0.5)

    def _watch(self) -> None:
        while not self._stopped.wait(min(_TICK, self._patience)):
            activity = self.activity
            if activity is None or time.monotonic() - activity.began < self._patience:
                continue
            try:
                self._look(activity)
            except (Failure, StatementError, ConnectionLostError) as error:
                logs.event(logs.DEBUG, "watcher.failed", f"cannot watch the long statement: {error}")
                self._close()
                self._next_connect = time.monotonic() + _RECONNECT_AFTER
        self._close()

    def _look(self, activity: Activity) -> None:
        if self._session is None:
            if time.monotonic() < self._next_connect:
                return
            self._session = self._target.connect(self._connect_timeout)
        lease = self._lease
        results = self._session.query(
            f"""BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 1000; SET LOCAL statement_timeout = 4000;
            {lease.still_ours()}
            SELECT a.pid, a.usename, a.application_name,
                   extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::integer, a.state, a.query
            FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids({activity.backend_pid})) AS blocker(pid)
            JOIN pg_catalog.pg_stat_activity a ON a.pid = blocker.pid
            ORDER BY a.xact_start LIMIT 5;
            {lease.progress(activity.file, activity.statement, activity.statements)}
            COMMIT""",
            Deadline(_PATIENCE),
        )
        current = self.activity
        if current is None or current.file != activity.file:
            return  # That file has ended meanwhile.
        ours, blockers = results[3], results[4]
        if not ours:
            lease.revoked = True
            logs.event(
                logs.WARNING, "lock.revoked", "an operator freed the migration lock; stopping", file=activity.file
            )
            lease.worker.cancel()
            return
        self._report(activity, blockers)

    def _report(self, activity: Activity, blockers: list[Row]) -> None:
        seconds = time.monotonic() - activity.since
        phase.blocked(activity.file, activity.statement, [int(row[0] or 0) for row in blockers])
        for pid, user, application, age, state, query in blockers:
            logs.event(
                logs.WARNING,
                "migration.blocked",
                f"{activity.file} waits for a lock that backend {pid} holds ({user}, "
                f"{application or 'no application name'}, {state}, transaction open for {age} s): "
                f"{without_literals(query or '')}",
                file=activity.file,
                blocker=int(pid or 0),
                blocker_user=user,
                blocker_application=application,
                blocker_transaction_s=int(age or 0),
            )
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + _REPORT_EVERY
            logs.event(
                logs.INFO,
                "migration.progress",
                f"still at {activity.file}, statement {activity.statement} of {activity.statements}, "
                f"for {seconds:.0f} s",
                file=activity.file,
                statement=activity.statement,
                statements=activity.statements,
                duration_ms=round(seconds * 1000),
            )

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def without_literals(query: str) -> str:
    """Return a query for a log: one line, cut, and its values left out, as they belong to somebody else."""
    query = re.sub(r"'(?:[^']|'')*'?|\b\d+(?:\.\d+)?\b", "?", query)
    query = " ".join(query.split())
    return query if len(query) <= _QUERY_WIDTH else query[: _QUERY_WIDTH - 3] + "..."
