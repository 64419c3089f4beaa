"""The time for all migrations together, and for each file that declares a time of its own."""

from __future__ import annotations

from time import monotonic

from entrypoint.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Clocks:
    """As in chess: exactly one clock runs at any moment, and none is ever wound up again.

    So all work ends within the sum of what the clocks were given: the common one, and those of the files that
    declare a time-out (docs/decisions/0014).
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """Start the common clock, with so many `seconds`."""
        self._clock = clock
        self._left: dict[int | None, float] = {}
        self._turn: int | None = None
        self.running = Deadline(seconds, clock)
        """When the time of whoever's turn it is ends."""

    def turn_to(self, number: int | None = None, declared: float | None = None) -> Deadline:
        """Stop the clock that runs, start the one of migration `number`, and return it.

        It is the common one, unless the file has `declared` so many seconds for itself: all its attempts together,
        also after the lock was lost and won back.
        """
        turn = None if declared is None else number
        if turn != self._turn:
            self._left[self._turn] = self.running.remaining()
            self._turn = turn
            self.running = Deadline(self._left.get(turn, declared or 0.0), self._clock)
        return self.running
