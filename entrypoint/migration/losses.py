"""Counts how often the connection was lost at each statement: one that keeps ending it is not retried forever.

A statement that crashes its server process, or makes it grow until the kernel kills it, ends all other sessions as
well, because PostgreSQL then restarts all its processes.
"""

from __future__ import annotations

from collections import Counter

from entrypoint.deadline import uniform
from entrypoint.errors.migration import MigrationLostError
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.errors import ConnectionLostError
    from entrypoint.errors.migration import LeaseLostError

MOST = 3
"""After this many losses at the same statement, give up."""
_FIRST_PAUSE = 1.0


class Spot(NamedTuple):
    """Where in a file the connection was lost, as far as that is known."""

    number: int
    file: str
    statement: int
    """Counted from 1; 0 outside the file's statements."""
    words: str
    """Such as `statement 2 of 3`."""
    line: int | None
    batches: int = 0
    """How many batches of it are committed. Each batch counts as a different spot."""


class Losses:
    """The losses of one start, even if it takes the lock several times."""

    def __init__(self) -> None:
        """Start with none."""
        self._counts: Counter[tuple[int, int, int]] = Counter()
        self._latest = 0
        self.last = ""
        """How the connection was lost the last time."""
        self.remedy = ""
        """What to do about that."""

    def note(self, spot: Spot, lost: ConnectionLostError | LeaseLostError) -> bool:
        """Count a loss; tell whether it was one too many."""
        self.last, self.remedy = lost.message, lost.remedy
        place = spot.number, spot.statement, spot.batches
        self._counts[place] += 1
        self._latest = self._counts[place]
        return self._latest >= MOST

    def pause(self) -> float:
        """Return how many seconds to wait after the last loss: longer each time."""
        longest = _FIRST_PAUSE * 2.0 ** (self._latest - 1) if self._latest else 0.0
        return uniform(longest / 2, longest)


def too_many(spot: Spot, lost: ConnectionLostError, still: str, again: str) -> MigrationLostError:
    """Return the error for a statement at which the connection was lost too often.

    `still`: what remains true of the file, in words. `again`: when it is tried again, as a sentence.
    """
    rule = lost.fields.get("setting")
    stop = "" if lost.message.endswith((".", "?", "!")) else "."
    return MigrationLostError(
        f"{spot.file}{'' if spot.line is None else f':{spot.line}'}: the connection was lost {MOST} times at "
        f"{spot.words}; last error: {lost.message}{stop} What was not committed is rolled back, and {still}",
        remedy=f"{lost.remedy} {again}"
        if rule
        else "Check the server's log for why the process behind the connection ended; for example, the kernel may "
        f"have killed it because memory ran out. {again}",
        version=spot.number,
        file=spot.file,
        line=spot.line,
        statement=spot.statement or None,
        losses=MOST,
        sqlstate=lost.sqlstate,
        setting=rule,
    )
