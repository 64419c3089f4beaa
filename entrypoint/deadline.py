"""Deadlines, and waits that signals can interrupt."""

from __future__ import annotations

from os import urandom
from time import monotonic, sleep

from entrypoint import signals
from entrypoint.records import MOST_MILLISECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread


SLICE = 0.2
"""The most seconds that the main thread spends in one blocking system call.

A signal that arrives between the interpreter's last check for signals and such a call does not interrupt the call. Its
handler would only run when the wait is over, but SIGTERM must end the program within two seconds.
"""

# After this many doublings, any pause is long enough; much larger powers of 2 would overflow a float.
_DOUBLINGS = 10


class Deadline:
    """A point in time on a monotonic clock."""

    __slots__ = ("_clock", "at", "budget")

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """Set the deadline to `seconds` from now, measured by `clock` (in seconds, monotonic)."""
        self._clock = clock
        self.budget = seconds
        self.at = clock() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left; never negative."""
        return max(0.0, self.at - self._clock())

    def passed(self) -> bool:
        """Tell whether no time is left."""
        return self._clock() >= self.at

    def within(self, seconds: float) -> Deadline:
        """Return the earlier of this deadline and one `seconds` from now."""
        return Deadline(min(self.remaining(), seconds), self._clock)

    def milliseconds(self, at_least: int = 1) -> int:
        """Return the time left in whole milliseconds, for PostgreSQL's timeouts; at least 1, as 0 would mean none."""
        return min(max(at_least, int(self.remaining() * 1000)), MOST_MILLISECONDS)


def uniform(least: float, most: float) -> float:
    """Return a random number between `least` and `most`. Importing the module `random` would take 1 ms."""
    return least + (most - least) * int.from_bytes(urandom(4), "big") / 0xFFFFFFFF


def growing(first: float, earlier: int, most: float) -> float:
    """Return how many seconds to pause after this many `earlier` pauses: doubling from `first` up to `most`.

    Each is shortened by a random part of up to half, so that many processes do not continue at the same moment.
    """
    longest = min(first * 2.0 ** min(earlier, _DOUBLINGS), most)
    return uniform(longest / 2, longest)


def pause(seconds: float) -> None:
    """Sleep for this many seconds, in slices."""
    end = Deadline(seconds)
    while not end.passed():
        sleep(min(end.remaining(), SLICE))
        signals.raise_lost()


def sliced(wait: Callable[[float], bool], seconds: float) -> bool:
    """Call `wait` with a timeout in seconds, in slices, until it returns True or `seconds` are over.

    Returns its last result.
    """
    end = Deadline(seconds)
    while True:
        if wait(min(end.remaining(), SLICE)):
            return True
        signals.raise_lost()
        if end.passed():
            return False


def joined(thread: Thread, seconds: float) -> bool:
    """Wait up to this many seconds for a thread to end, in slices; tell whether it has ended."""

    def wait(slice_: float) -> bool:
        thread.join(slice_)
        return not thread.is_alive()

    return sliced(wait, seconds)
