"""How long to wait for others: whether they show that they are alive, and the clock that stops while they do."""

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

# `pg_locks` is asked no more often: beside thousands of locks that takes a while.
_ASK_EVERY = 3.0
# For so long the answer is believed, if no other is to be had.
_BELIEVE = 10.0
_PATIENCE = 5.0


class Patience:
    """Stops the clock while one of our holders is alive and within its time, unless the time-out was set."""

    def __init__(self, clocks: Clocks, lock: LockPolicy, apply: ApplyPolicy, role: str | None) -> None:
        """`clocks`: those of the start, of which the one for waiting runs."""
        self._clocks = clocks
        self._lock = lock
        self._apply = apply
        self._role = role
        self._asked = float("-inf")
        self._token: str | None = None
        self._arriving: int | None = None
        """The session of ours, by its pid, that had the lock when it was last asked, without a row that says so."""
        self.stranger: Guardian | None = None
        """Who was seen to hold the guard's lock without being the holder that the row names."""
        self.crowded = False
        """Whether the server had hardly any connections left when it was last asked."""

    def forget(self) -> None:
        """Let the clock run: the lock is free, or there is nothing to wait for that long."""
        self._asked, self.stranger, self.crowded = float("-inf"), None, False
        self._clocks.stand(0.0)

    def weigh(self, session: Session, place: Place, token: str | None = None) -> None:
        """Ask who holds the guard's lock, every few seconds at most, or if the row's `token` is another one.

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
            guardian = None  # It is about to make the ledger.
        left = time_left(row, guardian, self._apply.timeout)
        if left is None and guardian is not None and guardian.application.startswith(OURS):
            # Between the lock and the row there is a moment; who is still there at the next look is in no hurry.
            arrived, self._arriving = guardian.pid == self._arriving, guardian.pid
            guardian = guardian if arrived else None
        self.stranger = guardian if left is None and (row is None or not row.legacy) else None
        self._clocks.stand(0.0 if left is None or self._lock.hard else min(left, _BELIEVE))


def time_left(row: LockRow | None, guardian: Guardian | None, apply_timeout: float) -> float | None:
    """Return for how many seconds the holder that the `row` names may go on; None if it does not show that it lives.

    The sign is that its guard holds the lock: PostgreSQL ends that of a dead or frozen holder. A holder of an earlier
    release does not say which is its guard, nor when its time ends; it is taken to have as much as we have.
    """
    if guardian is None or row is None or not row.held or row.legacy:
        return None
    if row.guard_pid is None:
        return max(0.0, apply_timeout - max(0.0, row.seconds or 0.0))
    return max(0.0, row.left or 0.0) if row.guard_pid == guardian.pid else None
