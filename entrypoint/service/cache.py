"""Read the database once at a time and at most once a second, however many requests arrive.

Requests that arrive during a read wait for its answer. An answer is used for a second, and never after that: if the
database does not answer, the service says so instead of repeating what it knew before.
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
    """The service is stopping, so there are no more answers."""


class _Answer(NamedTuple):
    snapshot: Snapshot
    at: float
    """When it arrived."""


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
        """Call `read`, which blocks, in its own thread.

        If it takes longer than `patience` seconds, `late` makes the answer for the waiting requests. Its argument is
        the time so far.
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
        # A thread that still hangs does not keep the process alive, as that ends with os._exit (__main__).
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")

    async def get(self) -> Snapshot:
        """Return the current answer: at most a second old, or read now.

        Raises StoppingError if the service is stopping.
        """
        answer = self._answer
        if answer is not None and self._clock() - answer.at < self._fresh:
            return answer.snapshot
        if self._left:
            raise StoppingError
        if self._flight is None:
            self._began = self._clock()
            self._flight = asyncio.get_running_loop().run_in_executor(self._thread, self._read)
            self._flight.add_done_callback(self._keep_answer)
        flight, waited = self._flight, self._clock() - self._began
        # Unlike `wait_for`, do not cancel the read when one client leaves or has waited long enough.
        await asyncio.wait((flight,), timeout=max(0.0, self._patience - waited))
        if flight.cancelled():
            raise StoppingError
        return flight.result() if flight.done() else self._late(self._clock() - self._began)

    def leave(self) -> None:
        """Stop reading: the service is stopping, and all waiting requests are told so at once."""
        self._left = True
        if self._flight is not None:
            self._flight.cancel()

    def _keep_answer(self, flight: asyncio.Future[Snapshot]) -> None:
        self._flight = None
        if not flight.cancelled() and flight.exception() is None:
            self._answer = _Answer(flight.result(), self._clock())
