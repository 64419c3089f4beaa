"""Points in time that must not be passed."""

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
"""Seconds: the main thread spends no more in one call of the kernel that waits.

A signal that comes between the interpreter's last look for signals and such a call does not end the call. Its handler
would run when the wait is over, and SIGTERM has to end the program within two seconds.
"""

# After so many, a pause has grown long enough whatever it began with; and 2 to a larger power is at last no float.
_DOUBLINGS = 10


class Deadline:
    """A point in time, on a clock that nobody can set back."""

    __slots__ = ("_clock", "at", "budget")

    def __init__(self, seconds: float, clock: Callable[[], float] = monotonic) -> None:
        """Let the deadline be `seconds` from now, as `clock` (seconds, monotonic) counts them."""
        self._clock = clock
        self.budget = seconds
        self.at = clock() + seconds

    def remaining(self) -> float:
        """Return the seconds that are left, never less than 0."""
        return max(0.0, self.at - self._clock())

    def passed(self) -> bool:
        """Tell whether nothing is left."""
        return self._clock() >= self.at

    def within(self, seconds: float) -> Deadline:
        """Return the earlier of this deadline and one `seconds` from now."""
        return Deadline(min(self.remaining(), seconds), self._clock)

    def milliseconds(self, at_least: int = 1) -> int:
        """Return what is left in whole milliseconds, for PostgreSQL's time-outs, where 0 would mean never."""
        return min(max(at_least, int(self.remaining() * 1000)), MOST_MILLISECONDS)


def uniform(least: float, most: float) -> float:
    """Return a number between two, at random. Python's own module for that takes 1 ms to import."""
    return least + (most - least) * int.from_bytes(urandom(4), "big") / 0xFFFFFFFF


def growing(first: float, earlier: int, most: float) -> float:
    """Return the seconds to pause after so many `earlier` pauses: doubling from `first` to `most`.

    Shortened at random by up to half, so that many who pause do not go on at the same moment.
    """
    longest = min(first * 2.0 ** min(earlier, _DOUBLINGS), most)
    return uniform(longest / 2, longest)


def pause(seconds: float) -> None:
    """Sleep for so long, in slices."""
    end = Deadline(seconds)
    while not end.passed():
        sleep(min(end.remaining(), SLICE))
        signals.raise_lost()


def sliced(wait: Callable[[float], bool], seconds: float) -> bool:
    """Wait for so long, in slices, with a `wait` that takes a time-out in seconds and tells whether it was to use.

    Return what it told last.
    """
    end = Deadline(seconds)
    while True:
        if wait(min(end.remaining(), SLICE)):
            return True
        signals.raise_lost()
        if end.passed():
            return False


def joined(thread: Thread, seconds: float) -> bool:
    """Wait for a thread's end for so long, in slices; tell whether it has ended."""

    def wait(slice_: float) -> bool:
        thread.join(slice_)
        return not thread.is_alive()

    return sliced(wait, seconds)
