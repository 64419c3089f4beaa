"""The waits between two batches: for standbys, for open transactions, and the pause that the file asks for."""

from __future__ import annotations

import time

from entrypoint import logs, signals
from entrypoint.database import session_state
from entrypoint.deadline import pause
from entrypoint.migration.apply.attempt import run_ours
from entrypoint.migration.observe.board import Activity
from entrypoint.migration.observe.lag import Lag, lag_query, read_lag
from entrypoint.migration.script.batch import spell_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.answers import Row
    from entrypoint.errors import EntrypointError
    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.apply.keys import Key
    from entrypoint.migration.observe.progress import Walked

_LOOK_EVERY = 1.0
_TELL_AGAIN = 10.0


class Between:
    """The waits of one file. None of them keeps a transaction open."""

    def __init__(self, task: Task, began: float, out_of_time: Callable[[str], EntrypointError]) -> None:
        """Take when the walk began (`time.monotonic()`).

        `out_of_time`: returns the error to raise when the time is up, given what was waited for.
        """
        self._task = task
        self._began = began
        self._out_of_time = out_of_time
        self._told_of_lag = False
        self._walk: Walked | None = None
        """How far the walk was when it was last shown."""

    def standbys(self, allowed: int | None) -> None:
        """Wait while a standby has more than `allowed` bytes left to replay; with None, do not wait."""
        if allowed is None:
            return
        told = float("-inf")
        file = self._task.migration.file
        while (lag := self._lag()).known and lag.bytes_ > allowed:
            now = time.monotonic()
            waits = f"{lag.name} is {lag.bytes_ >> 20} MB behind; max-replica-lag is {spell_bytes(allowed)}"
            if now - told >= _TELL_AGAIN:
                told = now
                logs.event(
                    logs.INFO,
                    "migration.replica_lag",
                    f"{file.name} waits: {waits}",
                    version=file.number,
                    file=file.name,
                    standby=lag.name,
                    lag_bytes=lag.bytes_,
                    max_lag_bytes=allowed,
                )
            self.show(f"waiting for a standby: {waits}")
            self._check(f"It was waiting for a standby: {waits}")
            pause(min(_LOOK_EVERY, self._task.deadline.remaining()))
        if not lag.known and not self._told_of_lag:
            self._told_of_lag = True
            logs.event(
                logs.WARNING,
                "migration.replica_lag_unknown",
                f"{file.name}: this user may not see how far standbys lag behind, so batches do not wait for them",
                version=file.number,
                file=file.name,
                remedy="GRANT pg_monitor TO the migration user, or remove max-replica-lag from the file.",
            )

    def _lag(self) -> Lag:
        # As the login user, who may be able to see more than the role.
        return read_lag(self._query(f"BEGIN READ ONLY; {session_state.ours(None)} {lag_query()}; COMMIT")[-2])

    def writers(self, key: Key, table: str) -> None:
        """Wait for open transactions that may have written rows which this pass could not see."""
        ask = f"BEGIN READ ONLY; {session_state.ours(self._task.assignment.role)} {key.writers()}; COMMIT"
        first = left = self._query(ask)[-2]
        file, told = self._task.migration.file, time.monotonic() - _TELL_AGAIN + _LOOK_EVERY
        while left:
            pids = ", ".join(sorted(pid or "a prepared transaction" for _, pid in left))
            if time.monotonic() - told >= _TELL_AGAIN:
                told = time.monotonic()
                logs.event(
                    logs.INFO,
                    "migration.waits_for_writers",
                    f"{file.name}: the next pass starts when these transactions, which have written to {table}, have "
                    f"ended: {pids}",
                    version=file.number,
                    file=file.name,
                    pids=[int(pid) for _, pid in left if pid],
                )
            left_open = f"when the transactions that have written to {table} have ended: {pids}"
            self.show(f"the next pass starts {left_open}")
            self._check(f"The next pass was to start {left_open}")
            pause(min(_LOOK_EVERY / 4, self._task.deadline.remaining()))
            now = self._query(ask)[-2]
            left = [one for one in first if one in now]
        self._task.assignment.board.activity = None

    def rest(self, seconds: float) -> None:
        """Pause as the file asks, but send a query now and then, so that the session is not ended for being idle."""
        if seconds >= _LOOK_EVERY:
            self.show(f"pausing for {seconds:.1f} s between batches")
        end = self._task.deadline.within(seconds)
        while not end.passed():
            self._check()
            pause(min(end.remaining(), _LOOK_EVERY))
            if not end.passed():
                self._query("SELECT 1")

    def show(self, why: str) -> None:
        """Publish why the file is waiting."""
        board, file, now = self._task.assignment.board, self._task.migration.file, time.monotonic()
        if board.activity is not None and board.activity.walk is not None:
            self._walk = board.activity.walk
        board.activity = Activity(file.name, 0, self._began, now, 1, 1, None, retry=why, walk=self._walk)

    def _check(self, why: str = "") -> None:
        signals.raise_received()
        if self._task.deadline.passed():
            raise self._out_of_time(why)
        if self._task.lease.revoked:
            raise self._task.lease.lost()
        self._task.lease.check_guard()

    def _query(self, sql: str) -> list[list[Row]]:
        return run_ours(self._task, lambda: self._task.lease.worker.query(sql, self._task.patience))
