"""For all code that waits for a migration: one connection, short looks, irregular pauses, and few log lines."""

from __future__ import annotations

import time

from entrypoint import logs
from entrypoint.database.login import Failure
from entrypoint.deadline import Deadline, growing, uniform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.session import Session
    from entrypoint.database.target import Target

LEAST = 0.5
"""The last look happens when the time is already up, so it gets at least this many seconds."""
LOOK_PATIENCE = 5.0
"""The most seconds for one look, even if there is more time in total."""

_PAUSE = (0.25, 1.0)
# While a holder is known to have the lock: short glances in between show when it is gone.
_LONG_PAUSE = (1.0, 2.0)
_GLANCE_EVERY = (0.2, 0.4)
# While the server is short of connections and we have closed ours, so that many waiters can take turns.
_PAUSE_WHILE_DISCONNECTED = 1.0
_LONGEST_WHILE_DISCONNECTED = 5.0
# While only a fence is in the way, whose holder may be gone: the server notices that within 0.1 s.
_SHORT_PAUSE = 0.25
_FIRST_PAUSE = (0.05, 0.15)
# Longer than a contender's pause, so that a streak means "at every look".
_BREAK = 2.5
# News is logged at once, and the same line again only after this many seconds.
_REPORT_EVERY = 5.0


class Streak:
    """How long something has been seen at every look, without a break."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Measure with a `clock` in seconds."""
        self._clock = clock
        self._told: set[str] = set()
        self._first = self._last = float("-inf")

    def seen(self) -> None:
        """Record that it is seen now."""
        now = self._clock()
        if now - self._last > _BREAK:
            self._first = now
        self._last = now

    def seconds(self) -> float:
        """Return how long it has been seen, up to now; 0 after a break."""
        now = self._clock()
        return now - self._first if now - self._last <= _BREAK else 0.0

    def level(self, event: str) -> int:
        """Return the level at which to log this event: a warning the first time, then debug."""
        level = logs.DEBUG if event in self._told else logs.WARNING
        self._told.add(event)
        return level


def pause_between_looks() -> float:
    """Return how long to sleep between two looks: a random time, so that waiters do not all look at once."""
    return uniform(*_PAUSE)


def pause_with_glances() -> float:
    """Return how long to wait between two looks if there are glances in between."""
    return uniform(*_LONG_PAUSE)


def pause_between_glances() -> float:
    """Return how long to sleep before the next glance."""
    return uniform(*_GLANCE_EVERY)


def pause_while_disconnected(times: int) -> float:
    """Return how long to stay disconnected, so that others can connect; it grows with the number of `times`."""
    return growing(_PAUSE_WHILE_DISCONNECTED, times, _LONGEST_WHILE_DISCONNECTED)


def pause_behind_a_fence(seconds: float) -> float:
    """Return how long to sleep if only a fence has been in the way for this many seconds; 0 if there is none."""
    if seconds <= 0:
        return 0.0
    return uniform(*_FIRST_PAUSE) if seconds < _SHORT_PAUSE else _SHORT_PAUSE


def time_for_a_look(deadline: Deadline, least: float = LEAST) -> Deadline:
    """Return the deadline for one look, within the overall `deadline`; it gets at least `least` seconds."""
    return Deadline(max(least, min(LOOK_PATIENCE, deadline.remaining())))


class KeptConnection:
    """One connection, kept between two looks and opened again when it is lost."""

    def __init__(self, target: Target, connect_timeout: float, session: Session | None = None) -> None:
        """Use the `session`, if there is one already."""
        self._target = target
        self._connect_timeout = connect_timeout
        self._session = session
        self.attempts = 0
        """How many attempts to connect there have been."""
        self.failures = 0
        """How many of the latest attempts have failed in a row."""

    @property
    def session(self) -> Session | None:
        """The connection, if it is open."""
        return self._session

    def connected(self, deadline: Deadline, least: float = LEAST) -> Session:
        """Return the connection; open it if necessary, for which there are at least `least` seconds. Raises Failure."""
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
        """Start with nothing logged."""
        self._told: object = None
        self._when = float("-inf")

    def worth_telling(self, news: object = ()) -> bool:
        """Tell whether to log it: at once if it differs from the last line, and otherwise after a few seconds."""
        now = time.monotonic()
        if news == self._told and now - self._when < _REPORT_EVERY:
            return False
        self._told, self._when = news, now
        return True
