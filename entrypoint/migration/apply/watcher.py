"""Watches a long statement: publishes its progress, names what blocks it, notices that an operator freed the lock.

It also ends an attempt that has waited for locks for too long in total. PostgreSQL's `lock_timeout` applies to each
lock separately, while others wait behind every lock that the migration already holds.

It runs in a thread with its own connection, opened only when there is something to watch. If that fails, nothing else
is affected.
"""

from __future__ import annotations

import threading
import time

from entrypoint import logs
from entrypoint.database.answers import StatementError
from entrypoint.database.login import Failure
from entrypoint.database.session_state import OURS_WITH_PATH
from entrypoint.deadline import Deadline, joined, sliced
from entrypoint.errors import ConnectionLostError, EntrypointError
from entrypoint.migration.apply.doubt import STANDBY_REMEDY, waited_for_standby
from entrypoint.migration.observe import blockers, progress
from entrypoint.migration.observe.blockers import Waits, blocker_fields
from entrypoint.migration.observe.board import Seen
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.database.target import Target
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.migration.observe.blockers import Blocker, Wait
    from entrypoint.migration.observe.board import Activity, Board
    from entrypoint.migration.observe.progress import Progress

# Seconds between checks for a wait: short enough to add up all waits, long enough not to burden the server.
_TICK = 0.25
# Seconds between checks of everything else, and updates of the lock's row.
_LOOK_EVERY = 1.0
_REPORT_EVERY = 5.0
_TELL_AGAIN = 10.0
# A file in batches often has shorter waits than this, and names its blockers itself.
_WORTH_TELLING = 1.0
_PATIENCE = 5.0
_RECONNECT_AFTER = 10.0
# If a statement was seen waiting this recently before its attempt ended, the wait was why it ended.
_MOMENT = 1.0
# How long sending a cancel may take; the leader may be waiting for it.
_CANCEL = 0.5
# How long the leader waits for a cancel in progress: longer than a cancel takes, however it ends.
_STAND_DOWN = 1.5
_NEVER = float("-inf")
# How many results come before that of the first question.
_BEGUN = 9


class GaveUp(NamedTuple):
    """An attempt was ended because it had waited for locks for too long in total."""

    seconds: float
    allowed: float


class Watched(NamedTuple):
    """What the watcher saw of an attempt that is over."""

    gave_up: GaveUp | None
    blockers: tuple[Blocker, ...]
    """The sessions that were last seen blocking it."""
    waiting: bool = False
    """Whether it was still waiting for them at the last check, or until shortly before."""
    lock: str = ""
    """The lock that it waited for, such as `ShareLock on orders`."""
    standby: str = ""
    """`synchronous_standby_names`, if its COMMIT was seen waiting for one of them."""


class Watcher:
    """Watches one lease's worker from its first migration to its last."""

    def __init__(
        self, lease: Lease, target: Target, board: Board, connect_timeout: float, ddl_lock_timeout: float
    ) -> None:
        """Watch statements that take longer than a second, or less if `ddl_lock_timeout` could end them sooner."""
        self._lease = lease
        self._target = target
        self._board = board
        self._connect_timeout = connect_timeout
        # After how many seconds to open a connection, and to report a wait for a lock.
        self._early = self._tick = 0.0
        self._ddl_lock_timeout = ddl_lock_timeout
        self.look_closely(None)
        # After how many seconds to report progress, and to check whether an operator has freed the lock.
        self._patience = min(3.0, ddl_lock_timeout / 2)
        self._session: Session | None = None
        self._stopped = threading.Event()
        # Held while a cancel is in progress, so that the end of an attempt waits for it: it must not hit the next one.
        self._cancelling = threading.Lock()
        self._gave_up: GaveUp | None = None
        self._standby = ""
        self._attempt: Activity | None = None
        self._waits = Waits()
        self._wait: Wait | None = None
        self._blockers: tuple[Blocker, ...] = ()
        self._lock = ""
        self._waited = self._asked = self._looked = self._reported = self._told = _NEVER
        self._next_connect = 0.0
        self._thread = threading.Thread(target=logs.carried(self._watch), name="watcher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        joined(self._thread, 0.5)

    def look_closely(self, lock_timeout: float | None) -> None:
        """From now on, look often enough to see waits that end after `lock_timeout` seconds; None: as at the start."""
        seconds = self._ddl_lock_timeout if lock_timeout is None else min(lock_timeout, self._ddl_lock_timeout)
        self._early, self._tick = min(1.0, seconds / 5), max(0.02, min(_TICK, seconds / 20))

    def stand_down(self) -> Watched:
        """Return what was seen of the attempt that has just ended. The watcher sends no cancel after this."""
        # If the server does not answer the watcher within this time, a late cancel is the smallest problem.
        locked = sliced(lambda seconds: self._cancelling.acquire(timeout=seconds), _STAND_DOWN)
        try:
            activity, self._board.activity = self._board.activity, None
            mine = activity is not None and self._attempt is not None and activity.began == self._attempt.began
            waiting = self._wait is not None or time.monotonic() - self._waited < _MOMENT
            blockers_, waiting, lock = (self._blockers, waiting, self._lock) if mine else ((), False, "")
            watched = Watched(self._gave_up, blockers_, waiting, lock, self._standby)
            self._gave_up, self._standby = None, ""
        finally:
            if locked:
                self._cancelling.release()
        return watched

    def _watch(self) -> None:
        while not self._stopped.wait(self._tick):
            activity = self._board.activity
            if activity is None:
                continue
            try:
                if self._connected(activity):
                    self._look(activity)
            except StatementError as error:
                # The migration may have locked the row that should show its progress.
                self._fail(error)
                if self._session is not None:
                    self._session.rollback(Deadline(1.0))
            except (Failure, EntrypointError) as error:
                self._fail(error)
                self._close()
                self._next_connect = time.monotonic() + _RECONNECT_AFTER
        self._close()

    def _fail(self, error: Exception) -> None:
        logs.event(logs.DEBUG, "watcher.failed", f"cannot watch the long statement: {error}")

    def _connected(self, activity: Activity) -> bool:
        if self._session is None:
            now = time.monotonic()
            if now - activity.began < self._early or now < self._next_connect:
                return False
            self._session = self._target.connect(self._connect_timeout)
        return True

    def _look(self, activity: Activity) -> None:
        """Look for a wait at each tick, and at everything else less often."""
        self._turn_to(activity)
        if not activity.retry:
            self._look_for_wait(activity)
        now = time.monotonic()
        due = activity.retry or now - activity.began >= self._patience
        if due and now - self._looked >= _LOOK_EVERY:
            self._looked = now
            self._look_at_everything(activity)

    def _turn_to(self, activity: Activity) -> None:
        """Forget what was seen of an earlier transaction."""
        if not activity.same_transaction(self._attempt):
            self._waits, self._wait = Waits(), None
            self._board.block(activity, ())
            if self._attempt is None or activity.began != self._attempt.began or activity.walk is not None:
                self._blockers, self._waited = (), _NEVER
        self._attempt = activity

    def _look_for_wait(self, activity: Activity) -> None:
        session = self._open_session()
        rows = self._ask(blockers.waiting(activity.backend_pid, session.server_version))
        now = time.monotonic()
        before, self._wait = self._wait, blockers.read_wait(rows)
        self._waits.seen(self._wait, now)
        if self._wait is None:
            if before is not None:
                self._board.block(activity, ())
            return
        self._waited, self._lock = now, f"{self._wait.mode} on {self._wait.target}"
        if before is None or before.began != self._wait.began:
            self._asked = self._told = _NEVER
        length = self._wait.seconds if self._wait.began else now - max(activity.since, activity.began)
        if length >= self._early and now - self._asked >= _LOOK_EVERY:
            self._asked = now
            found = blockers.read_blockers(self._ask(blockers.blocking(activity.backend_pid)))
            if found and activity.same_transaction(self._board.activity):
                self._blockers = found
                self._board.block(activity, [blocker.pid for blocker in found])
                self._tell_blocked(activity, self._wait, length)
        if activity.lock_patience is not None and self._waits.seconds > activity.lock_patience:
            self._give_up(activity, self._wait, activity.lock_patience)

    def _give_up(self, activity: Activity, wait: Wait, allowed: float) -> None:
        """Cancel the statement, if it still waits for that lock."""
        with self._cancelling:
            if not activity.same_transaction(self._board.activity):
                return
            # Before the signal is sent, because the leader may see its effect at any moment after that.
            self._gave_up = GaveUp(self._waits.seconds, allowed)
            rows = self._ask(blockers.cancel(activity.backend_pid, wait), _CANCEL)
            if not rows:
                self._gave_up = None

    def _look_at_everything(self, activity: Activity) -> None:
        session = self._open_session()
        lease = self._lease
        begin = (
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 1000; SET LOCAL statement_timeout = 4000; "
            # Do not wait for a standby to have this: the migration itself may be waiting for one.
            "SET LOCAL synchronous_commit = local; "
            f"{OURS_WITH_PATH};"
        )
        # Our login can see what our session does; perhaps only the role can see the lock's row.
        known = progress.query(activity.backend_pid, session.server_version)
        results = session.query(
            f"{begin} {known}; {progress.standby(activity.backend_pid)}; {lease.as_role} {lease.still_ours()} COMMIT",
            Deadline(_PATIENCE),
        )
        reported, standby, ours = results[_BEGUN], results[_BEGUN + 1], results[-2]
        current = self._board.activity
        if current is None or current.file != activity.file:
            return  # The file has ended in the meantime.
        if not ours and not lease.row_freed_by_file:
            lease.revoked = True
            logs.event(logs.WARNING, "lock.revoked", "lost the migration lock; stopping", file=activity.file)
            lease.worker.cancel()
            return
        if standby and not self._standby:
            self._standby = standby[0][0] or ""
            logs.event(
                logs.WARNING,
                "migration.commit_waits",
                f"{activity.file}: {waited_for_standby(self._standby, 'waits')}",
                file=activity.file,
                remedy=STANDBY_REMEDY,
            )
        seen = Seen(
            activity,
            _known(activity, reported),
            self._blockers if self._wait is not None else (),
        )
        self._board.seen = seen
        self._report(seen)
        detail = _detail(seen, time.monotonic())
        update = lease.progress(activity.file, activity.statement, activity.statements, detail)
        session.query(f"{begin} {lease.as_role} {update} COMMIT", Deadline(_PATIENCE))

    def _tell_blocked(self, activity: Activity, wait: Wait, length: float) -> None:
        now = time.monotonic()
        if now - self._told < _TELL_AGAIN or (activity.walk is not None and length < _WORTH_TELLING):
            return
        self._told = now
        for blocker in self._blockers:
            logs.event(
                logs.WARNING,
                "migration.blocked",
                f"{activity.file} has waited {length:.1f} s for {wait.mode} on {wait.target}, behind {blocker.words()}",
                file=activity.file,
                statement=activity.statement,
                statements=activity.statements,
                duration_ms=round(length * 1000),
                lock_mode=wait.mode,
                lock_target=wait.target,
                **blocker_fields(blocker),
                remedy=blocker.remedy(),
            )

    def _report(self, seen: Seen) -> None:
        now = time.monotonic()
        activity, known = seen.activity, seen.progress
        if activity.retry or now - self._reported < _REPORT_EVERY:
            return
        self._reported = now
        seconds = now - activity.since
        logs.event(
            logs.INFO,
            "migration.progress",
            f"{_doing(seen)} {activity.file}, {activity.words()}, for {seconds:.0f} s{self._in_all(activity, now)}"
            + (f": {known.words()}" if known else ""),
            file=activity.file,
            statement=activity.statement,
            statements=activity.statements,
            duration_ms=round(seconds * 1000),
            **(known._asdict() if known else {}),
            **(activity.walk.fields() if activity.walk else {}),
        )

    def _in_all(self, activity: Activity, now: float) -> str:
        """Return how long all attempts at the file have taken, unless this is the first."""
        began = self._board.file_began
        return f" in this attempt, {now - began:.0f} s in all" if began < activity.began else ""

    def _ask(self, query: str, seconds: float = _PATIENCE) -> list[Row]:
        return self._open_session().query(f"{OURS_WITH_PATH}; {query}", Deadline(seconds))[-1]

    def _open_session(self) -> Session:
        if self._session is None:
            raise ConnectionLostError("the watcher has no connection")
        return self._session

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _doing(seen: Seen) -> str:
    return "waiting for a lock in" if seen.blockers else "still running"


def _known(activity: Activity, reported: list[Row]) -> Progress | None:
    """Return how far a statement is. A file in batches knows this itself; for others, the server reports it."""
    if activity.walk is not None:
        return activity.walk.progress
    return None if activity.retry else progress.read(reported)


def _detail(seen: Seen, now: float) -> dict[str, object]:
    """Return what the lock's row says besides file and statement; `progress.describe` puts it into words."""
    detail: dict[str, object] = {}
    if seen.activity.retry:
        detail["retry"] = seen.activity.retry
    else:
        detail["seconds"] = round(now - seen.activity.since)
        detail["or_later"] = seen.activity.or_later or None
    if seen.progress is not None:
        detail |= seen.progress._asdict()
    if seen.activity.walk is not None:
        detail |= seen.activity.walk.fields()
    if seen.blockers:
        detail["blocked_by"] = " and ".join(blocker.brief for blocker in seen.blockers)
        detail["blocker"] = seen.blockers[0].pid or None
    return {name: value for name, value in detail.items() if value is not None}
