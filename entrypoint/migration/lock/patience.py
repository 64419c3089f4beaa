"""How long to wait for the lock: the clock stops while a holder shows that it is alive."""

from __future__ import annotations

from time import monotonic

from entrypoint import logs
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.migration.ledger import reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.clocks import Clocks
    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.reading import Guardian, LockRow
    from entrypoint.records import ApplyPolicy, LockPolicy

# Seconds between queries of `pg_locks`, which take a while if there are thousands of locks.
_ASK_EVERY = 3.0
# How many seconds to rely on the last answer if there is no newer one.
_BELIEVE = 10.0
_PATIENCE = 5.0


class ClockStopper:
    """Stops the clock while a holder of ours is alive and within its time, unless the user has set the timeout."""

    def __init__(self, clocks: Clocks, lock: LockPolicy, apply: ApplyPolicy, role: str | None) -> None:
        """`clocks`: those of this start; the one for waiting must be running."""
        self._clocks = clocks
        self._lock = lock
        self._apply = apply
        self._role = role
        self._asked = float("-inf")
        self._token: str | None = None
        self._arriving: int | None = None
        """The pid of a session of ours that held the lock at the last query, while the row did not name it."""
        self.stranger: Guardian | None = None
        """The session that held the guard's lock although it is not the holder in the row."""
        self.crowded = False
        """Whether the server had hardly any connections left at the last query."""

    def forget(self) -> None:
        """Let the clock run, because the lock is free or there is nothing worth waiting for."""
        self._asked, self.stranger, self.crowded = float("-inf"), None, False
        self._clocks.stop_for(0.0)

    def weigh(self, session: Session, place: Place, token: str | None = None) -> None:
        """Ask who holds the guard's lock: every few seconds at most, or whenever the row's `token` changes.

        Raises ConnectionLostError.
        """
        now = monotonic()
        if now - self._asked < _ASK_EVERY and token == self._token:
            return
        self._asked, self._token = now, token
        try:
            row, guardian, self.crowded = reading.look_at_holder(session, place, self._role, Deadline(_PATIENCE))
        except StatementError as error:
            logs.event(logs.DEBUG, "lock.holder_not_seen", f"cannot see who holds the migration lock: {error}")
            return
        if row is None and guardian is not None and guardian.application.startswith(OURS):
            guardian = None  # It is about to create the ledger.
        left = time_left(row, guardian, self._apply.timeout)
        if left is None and guardian is not None and guardian.application.startswith(OURS):
            # Taking the lock and writing the row takes a moment. Only a session still there at the next look is odd.
            arrived, self._arriving = guardian.pid == self._arriving, guardian.pid
            guardian = guardian if arrived else None
        self.stranger = guardian if left is None and (row is None or not row.legacy) else None
        self._clocks.stop_for(0.0 if left is None or self._lock.hard else min(left, _BELIEVE))


def time_left(row: LockRow | None, guardian: Guardian | None, apply_timeout: float) -> float | None:
    """Return how many more seconds the holder in the `row` may take; None if it does not show that it is alive.

    It is alive if its guard holds the lock: PostgreSQL ends the guard's session of a dead or frozen holder. A holder of
    an earlier release does not record its guard, nor when its time ends; we assume that it has as much time as we have.
    """
    if guardian is None or row is None or not row.held or row.legacy:
        return None
    if row.guard_pid is None:
        return max(0.0, apply_timeout - max(0.0, row.seconds or 0.0))
    return max(0.0, row.left or 0.0) if row.guard_pid == guardian.pid else None
