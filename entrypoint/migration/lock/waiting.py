"""What everyone who waits for a migration uses: one connection, short looks, irregular pauses, and few log lines."""

from __future__ import annotations

import time

from entrypoint.database.login import Failure
from entrypoint.deadline import Deadline, growing, uniform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.database.target import Target

LEAST = 0.5
"""The last look comes when the time is over, and needs a little of its own."""
LOOK_PATIENCE = 5.0
"""For one look, however much time there is for all."""

_PAUSE = (0.25, 1.0)
# While a holder is known to have the lock, whose going a glance shows.
_LONG_PAUSE = (1.0, 2.0)
_GLANCE_EVERY = (0.2, 0.4)
# While the server is short of connections and we have given ours back: so many share those that there are by turns.
_PAUSE_WITHOUT_A_PLACE = 1.0
_LONGEST_WITHOUT_A_PLACE = 5.0
# While only a fence stands in the way, whose holder may be gone: the server sees that within 0.1 s.
_SHORT_PAUSE = 0.25
_FIRST_PAUSE = (0.05, 0.15)
# What is new is told at once, the same again after some seconds.
_REPORT_EVERY = 5.0


def pause_between_looks() -> float:
    """Return how long to sleep now, so that many waiters do not look at the same moment."""
    return uniform(*_PAUSE)


def pause_with_glances() -> float:
    """Return how long to go from one look to the next, if there are glances between them."""
    return uniform(*_LONG_PAUSE)


def pause_between_glances() -> float:
    """Return how long to sleep before the next glance."""
    return uniform(*_GLANCE_EVERY)


def pause_without_a_place(times: int) -> float:
    """Return how long to go without a connection that others need, after the `times`-th such look: ever longer."""
    return growing(_PAUSE_WITHOUT_A_PLACE, times, _LONGEST_WITHOUT_A_PLACE)


def pause_behind_a_fence(seconds: float) -> float:
    """Return how long to sleep if only a fence has been in the way, for so many seconds; 0 if there is none."""
    if seconds <= 0:
        return 0.0
    return uniform(*_FIRST_PAUSE) if seconds < _SHORT_PAUSE else _SHORT_PAUSE


def time_for_a_look(deadline: Deadline, least: float = LEAST) -> Deadline:
    """Return by when one look must be over, however much time there is for all; it has `least` in any case."""
    return Deadline(max(least, min(LOOK_PATIENCE, deadline.remaining())))


class Line:
    """One connection, kept between two looks and opened again when it is lost."""

    def __init__(self, target: Target, connect_timeout: float, session: Session | None = None) -> None:
        """Go on with the `session`, if there is one already."""
        self._target = target
        self._connect_timeout = connect_timeout
        self._session = session
        self.attempts = 0
        """How often it was tried to connect."""
        self.failures = 0
        """How many of these attempts have failed in a row."""

    @property
    def session(self) -> Session | None:
        """The connection, if it is open."""
        return self._session

    def connected(self, deadline: Deadline, least: float = LEAST) -> Session:
        """Return the connection; open it again if need be, for which there is `least` in any case. Raises Failure."""
        if self._session is None or not self._session.usable:
            self.drop()
            self.attempts += 1
            try:
                self._session = self._target.connect(min(self._connect_timeout, max(least, deadline.remaining())))
            except Failure:
                self.failures += 1
                raise
            self.failures = 0
        return self._session

    def drop(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.close()
            self._session = None


class News:
    """Decides what is worth a line in the log while nothing happens."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: object = None
        self._when = float("-inf")

    def worth_telling(self, news: object = ()) -> bool:
        """Tell whether to log it: at once if it differs from the last line, and otherwise after a few seconds."""
        now = time.monotonic()
        if news == self._told and now - self._when < _REPORT_EVERY:
            return False
        self._told, self._when = news, now
        return True
