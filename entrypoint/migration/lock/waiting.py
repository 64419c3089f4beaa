"""What everybody who waits for a migration has: one connection, short looks, irregular pauses, and sparse news."""

from __future__ import annotations

import time
from random import uniform

from entrypoint.database.login import Failure
from entrypoint.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.session import Session
    from entrypoint.database.target import Target

LEAST = 0.5
"""The last look comes when the time is over, and needs a little of its own."""
LOOK_PATIENCE = 5.0
"""For one look, however much time there is for all."""

_PAUSE = (0.25, 1.0)
# What is new is told at once, the same again after some seconds.
_REPORT_EVERY = 5.0


def pause_between_looks() -> float:
    """Return how long to sleep now, so that many who wait do not look at the same moments."""
    return uniform(*_PAUSE)


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
    """Tells what is worth a line in the log while nothing happens."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: object = None
        self._when = float("-inf")

    def worth_telling(self, news: object = ()) -> bool:
        """Tell whether to say it: at once if it is not what was said last, and the same again after some seconds."""
        now = time.monotonic()
        if news == self._told and now - self._when < _REPORT_EVERY:
            return False
        self._told, self._when = news, now
        return True
