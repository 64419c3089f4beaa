"""The time limits of one start: for connecting, for waiting while others are in the way, and for the migrations."""

from __future__ import annotations

from time import monotonic

from entrypoint.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Turn = int | str | None

CONNECTING = "connecting"
"""Until the ledger has been read."""
WAITING = "waiting"
"""While others are in the way: the server has too many clients, the ledger is locked, or somebody holds the lock."""


class Clocks:
    """As in chess, exactly one clock runs at any moment, and none ever gets more time.

    There is one object per start, passed from step to step. So a start ends within the sum of its clocks: for
    connecting, for waiting, the common one for migrations, and those of files that declare a timeout
    (docs/decisions/0014 and 0027). The running clock can only be stopped for a while.
    """

    def __init__(
        self, seconds: float, clock: Callable[[], float] = monotonic, *, connecting: float = 0.0, waiting: float = 0.0
    ) -> None:
        """Start the common clock for migrations, with this many `seconds`."""
        self._clock = clock
        self._left: dict[Turn, float] = {CONNECTING: connecting, WAITING: waiting}
        self._turn: Turn = None
        self._stopped_from = self._stopped_until = float("-inf")
        self._stopped = 0.0
        self.running = Deadline(seconds, clock)
        """The deadline of the running clock."""

    def turn_to(self, turn: Turn = None, declared: float | None = None) -> Deadline:
        """Stop the running clock, start that of `turn`, and return its deadline.

        `turn`: CONNECTING, WAITING, or a migration's number. A migration uses the common clock unless the file has
        `declared` a timeout in seconds, for all its attempts together, even if the lock is lost and regained.
        """
        if declared is None and isinstance(turn, int):
            turn = None
        if turn != self._turn:
            self.stop_for(0.0)
            self._left[self._turn] = self.running.remaining()
            self._turn = turn
            self.running = Deadline(self._left.get(turn, declared or 0.0), self._clock)
        return self.running

    def stop_for(self, seconds: float) -> None:
        """Stop the running clock for this many seconds from now. This replaces any earlier call."""
        now = self._clock()
        left = max(0.0, self.running.at - max(now, self._stopped_until))
        self._stopped = self.stopped
        self._stopped_from, self._stopped_until = now, now + seconds
        self.running.at = self._stopped_until + left

    @property
    def stopped(self) -> float:
        """How many seconds the clocks have been stopped so far, in total."""
        return self._stopped + max(0.0, min(self._clock(), self._stopped_until) - self._stopped_from)

    def work_left(self, declared: Mapping[int, float]) -> float:
        """Return the seconds that are left for all migrations; `declared`: the timeouts in files, by number."""
        left: dict[Turn, float] = dict(declared.items())
        left |= {**self._left, self._turn: self.running.remaining()}
        return sum(seconds for turn, seconds in left.items() if turn not in (CONNECTING, WAITING))
