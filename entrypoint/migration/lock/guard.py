"""The guard: the connection that holds the advisory lock for as long as this process lives and responds."""

from __future__ import annotations

import os
import threading
import time

from entrypoint import logs
from entrypoint.database import transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.login import Failure
from entrypoint.deadline import Deadline, joined, pause, sliced
from entrypoint.errors import ConnectionLostError, EntrypointError
from entrypoint.migration.ledger.keys import guard_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.target import Target
    from entrypoint.migration.ledger.place import Place

PING_EVERY = 5.0
# Seconds between two attempts to regain a lost guard.
_REGAIN_PAUSE = 0.2
# How long the guard's thread may take to stop.
_STOP = 0.5
_PING_PATIENCE = 10.0
# If the guard's session and the worker's ended within this many seconds, the same event ended both.
_LATELY = 1.0
_NEVER = float("-inf")


class Guard:
    """The connection that holds the advisory lock, and the thread that keeps it alive and takes a lost lock again."""

    def __init__(self, target: Target, place: Place, connect_timeout: float) -> None:
        """Open the connection; it holds nothing yet. Raises `database.login.Failure`."""
        self._target = target
        self._place = place
        self._connect_timeout = connect_timeout
        self._session = target.connect(connect_timeout)
        self._released = threading.Event()
        # A pipe that wakes the thread on release, as it waits on its connection.
        self._wakened, self._waker = os.pipe()
        self._held = threading.Event()
        self._thread = threading.Thread(target=logs.carried(self._keep), name="guard", daemon=True)
        self.backend_pid = 0
        """The server process that holds the lock, once it is taken."""
        self.was_lost = threading.Event()
        """Set once the lock has been lost, even if it was regained."""
        self._lost_at = _NEVER

    def try_lock(self, deadline: Deadline) -> bool:
        """Take the lock if nobody holds it; do not wait."""
        if not self._lock(deadline):
            return False
        self._held.set()
        self._thread.start()
        return True

    def held_within(self, seconds: float) -> bool:
        """Tell whether the lock is held, or regained within this many seconds."""
        return sliced(self._held.wait, seconds)

    def backend_within(self, seconds: float) -> int:
        """Return the server process that holds the lock now, or does within this many seconds; 0 if none does.

        Not for the main thread, which has to handle signals.
        """
        return self.backend_pid if self._held.wait(seconds) else 0

    def lost_lately(self, seconds: float) -> bool:
        """Tell whether the lock is lost, was lost a moment ago, or is lost within this many seconds."""

        def wait(slice_: float) -> bool:
            pause(slice_)
            return lost()

        def lost() -> bool:
            return not self._held.is_set() or time.monotonic() - self._lost_at < _LATELY

        return lost() or sliced(wait, seconds)

    def release(self) -> None:
        """Release the lock: at once if the server answers, otherwise when the connection ends."""
        self._released.set()
        if self._thread.ident is None:
            self._end()
        else:
            os.write(self._waker, b"!")
            # Not forever: a thread that waits for the server ends when the answer comes, or with the process.
            joined(self._thread, _STOP)
        if not self._thread.is_alive():
            os.close(self._waker)
            os.close(self._wakened)

    def _end(self) -> None:
        self._session.rollback(Deadline(0.3))
        self._session.close()

    def _lock(self, deadline: Deadline) -> bool:
        results = self._session.query(
            f"{transactions.begin_guard(self._session.server_version)}\n"
            f"SELECT pg_catalog.pg_try_advisory_xact_lock({guard_key(self._place)}), pg_catalog.pg_backend_pid()",
            deadline,
        )
        locked, backend_pid = results[-1][0]
        self.backend_pid = int(backend_pid or 0)
        return locked == "t"

    def _keep(self) -> None:
        try:
            self._keep_until_released()
        finally:
            self._end()

    def _keep_until_released(self) -> None:
        """Ping regularly; if the connection ends, notice at once and try to take the lock again.

        The ping touches no table: a lock on one could block the migration itself. A process that has taken the lock in
        the meantime keeps it; the fence decides which one may commit.
        """
        next_ping = time.monotonic() + PING_EVERY
        while not self._released.is_set():
            try:
                if not self._held.is_set():
                    self._regain()
                self._session.wait_for_end(max(next_ping - time.monotonic(), 0.0), self._wakened)
                if time.monotonic() >= next_ping:
                    self._session.query("SELECT 1", Deadline(_PING_PATIENCE))
                    next_ping = time.monotonic() + PING_EVERY
            except (StatementError, EntrypointError, Failure) as error:
                self._session.abandon()
                if self._held.is_set() and not self._released.is_set():
                    self._lost_at = time.monotonic()
                    self._held.clear()
                    self.was_lost.set()
                    _tell_lost(error)
                self._released.wait(_REGAIN_PAUSE)

    def _regain(self) -> None:
        self._session = self._target.connect(self._connect_timeout)
        if not self._lock(Deadline(_PING_PATIENCE)):
            raise ConnectionLostError("another session holds the migration lock")
        self._held.set()
        logs.event(logs.INFO, "lock.guard_regained", "took the migration lock's guard again on a new connection")


def _tell_lost(error: Exception) -> None:
    """Log that the guard is lost, and which setting of the server caused it, if known."""
    setting = error.fields.get("setting") if isinstance(error, EntrypointError) else None
    logs.event(
        logs.WARNING,
        "lock.guard_lost",
        f"lost the connection that guards the migration lock: {error}",
        setting=setting,
        remedy=error.remedy if setting and isinstance(error, EntrypointError) else None,
    )
