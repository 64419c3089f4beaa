"""One question to the database at a time, and one a second, however many ask the service.

Whoever asks while the database is being asked waits for that answer. An answer is given out for a second, and never
again after that: when the database does not answer, the service says so instead of repeating what it once knew.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.service.snapshot import Snapshot

FRESH = 1.0


class StoppingError(Exception):
    """The service ends, and there is no answer any more."""


class _Answer(NamedTuple):
    snapshot: Snapshot
    at: float
    """When it came."""


class Cache:
    """Answers from `read`, each at most `fresh` seconds old."""

    def __init__(
        self,
        read: Callable[[], Snapshot],
        late: Callable[[float], Snapshot],
        patience: float,
        *,
        fresh: float = FRESH,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Take `read`, which blocks and runs in a thread of its own.

        If it takes longer than `patience` seconds, `late` makes the answer for those who wait, from how long it has
        taken so far.
        """
        self._read = read
        self._late = late
        self._patience = patience
        self._fresh = fresh
        self._clock = clock
        self._answer: _Answer | None = None
        self._flight: asyncio.Future[Snapshot] | None = None
        self._began = 0.0
        self._left = False
        # A thread that hangs in spite of all must not keep the process: it ends by os._exit (__main__).
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")

    async def get(self) -> Snapshot:
        """Return how things stand: known for a second at most, or asked for now.

        Raises StoppingError if nobody is asked any more.
        """
        answer = self._answer
        if answer is not None and self._clock() - answer.at < self._fresh:
            return answer.snapshot
        if self._left:
            raise StoppingError
        if self._flight is None:
            self._began = self._clock()
            self._flight = asyncio.get_running_loop().run_in_executor(self._thread, self._read)
            self._flight.add_done_callback(self._landed)
        flight, waited = self._flight, self._clock() - self._began
        # Not as `wait_for` does: that one client goes away, or has waited long enough, is nothing to the others.
        await asyncio.wait((flight,), timeout=max(0.0, self._patience - waited))
        if flight.cancelled():
            raise StoppingError
        return flight.result() if flight.done() else self._late(self._clock() - self._began)

    def leave(self) -> None:
        """Ask nobody any more: the service ends, and whoever waits is told so at once."""
        self._left = True
        if self._flight is not None:
            self._flight.cancel()

    def _landed(self, flight: asyncio.Future[Snapshot]) -> None:
        self._flight = None
        if not flight.cancelled() and flight.exception() is None:
            self._answer = _Answer(flight.result(), self._clock())
