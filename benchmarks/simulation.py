"""A simulation, event by event, of a fleet of replicas on one server, for fleets that one machine cannot start.

The pauses come from the program's own functions. What a login, a refusal, a look and a glance cost the server is
measured first (benchmarks/fleet.py). Each replica has its own machine, so only the server can be overloaded.
"""

from __future__ import annotations

import heapq
from random import uniform
from typing import TYPE_CHECKING, NamedTuple

from entrypoint.database.backoff import pause_after
from entrypoint.migration.lock.waiting import pause_between_glances, pause_between_looks, pause_with_glances

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Steps = Generator[float, None, None]
    """What a replica does; yields the moments at which it continues."""
    Login = Generator[float, None, str]

# The program's defaults, in seconds.
ATTEMPTS, BACKOFF, CONNECT_TIMEOUT, LOCK_TIMEOUT = 5, 1.0, 5.0, 30.0
# How long a waiter's clock stays stopped after it last saw a living holder (lock/patience.py).
BELIEVED = 10.0
CONNECTED, REFUSED, TIMED_OUT = "connected", "refused", "timed out"


class Costs(NamedTuple):
    """The server's CPU time for each step, in seconds."""

    login: float
    refusal: float
    """A connection that gets "too many clients already"; the server forks for it anyway."""
    look: float
    glance: float


class Fleet(NamedTuple):
    """The replicas, their server and their work."""

    replicas: int
    spread: float
    """Seconds over which their starts are spread evenly."""
    work: float
    """Seconds that the pending migrations take; 0: nothing is pending."""
    connections: int
    """`max_connections`, without the reserved ones."""
    cores: int


class Pauses(NamedTuple):
    """How long a replica pauses if the server refuses it, by the number of refusals in a row before."""

    at_first: Callable[[int], float]
    """Before its first look."""
    waiting: Callable[[int], float]
    """While it waits for the lock."""
    spare: int = 0
    """A waiter that sees fewer free connections than this gives up its own until its next look."""


class Outcome(NamedTuple):
    """What came of it."""

    up: list[float]
    """When the successful replicas executed their applications, in order."""
    failed: int
    """How many gave up: their applications start without knowing the schema, or not at all."""
    logins: int
    refusals: int
    busy: float
    """The server's CPU time, in seconds."""
    behind: float
    """The longest wait for one of the server's processors."""
    released: float
    """When the migrations were done; 0 if nothing was pending."""


class Simulation:
    """One run of a fleet."""

    def __init__(self, fleet: Fleet, costs: Costs, pauses: Pauses) -> None:
        """Take what to simulate; see the records."""
        self._fleet, self._costs, self._pauses = fleet, costs, pauses
        self._now = 0.0
        self._events: list[tuple[float, int, Steps]] = []
        self._processors = [0.0] * fleet.cores
        self._places = fleet.connections
        self._locked = False
        self._released: float | None = None if fleet.work else 0.0
        self._up: list[float] = []
        self._failed = self._logins = self._refusals = self._count = 0
        self._busy = self._behind = 0.0

    def run(self) -> Outcome:
        """Simulate it to the end."""
        for _ in range(self._fleet.replicas):
            self._resume(uniform(0, self._fleet.spread), self._replica())
        while self._events:
            self._now, _, steps = heapq.heappop(self._events)
            moment = next(steps, None)
            if moment is not None:
                self._resume(moment, steps)
        return Outcome(
            sorted(self._up),
            self._failed,
            self._logins,
            self._refusals,
            self._busy,
            self._behind,
            self._released or 0.0,
        )

    def _resume(self, moment: float, steps: Steps) -> None:
        self._count += 1
        heapq.heappush(self._events, (moment, self._count, steps))

    def _served(self, cost: float) -> float:
        """Return when the server will have done this work; it serves requests in order."""
        begin = max(self._now, heapq.heappop(self._processors))
        heapq.heappush(self._processors, begin + cost)
        self._busy += cost
        self._behind = max(self._behind, begin - self._now)
        return begin + cost

    def _login(self) -> Login:
        """Connect; return the result. On success, the caller owns the connection."""
        began = self._now
        self._logins += 1
        if self._places <= 0:
            self._refusals += 1
            answered, ended = self._served(self._costs.refusal), REFUSED
        else:
            self._places -= 1
            answered, ended = self._served(self._costs.login), CONNECTED
        if answered - began > CONNECT_TIMEOUT:
            # The server does the work anyway, and the connection counts until then.
            yield began + CONNECT_TIMEOUT
            if ended == CONNECTED:
                self._resume(answered, self._give_back())
            return TIMED_OUT
        yield answered
        return ended

    def _give_back(self) -> Steps:
        self._places += 1
        yield from ()

    def _replica(self) -> Steps:
        """Simulate one start, from its first connection to its application."""
        if not (yield from self._first_connection()):
            self._failed += 1
            return
        yield self._served(self._costs.look)
        if self._released is None:
            yield from self._contend()
        else:
            self._places += 1
            self._up.append(self._now)

    def _first_connection(self) -> Generator[float, None, bool]:
        """Connect as database/backoff.py does; return whether that succeeded."""
        attempts = refusals = 0
        waited = 0.0
        while True:
            began = self._now
            ended = yield from self._login()
            if ended == CONNECTED:
                return True
            if ended == REFUSED:
                pause = self._pauses.at_first(refusals)
                refusals += 1
            else:
                attempts += 1
                pause = pause_after(attempts - 1, BACKOFF, uniform)
            yield self._now + pause
            if ended == REFUSED:
                waited += self._now - began
            if attempts >= ATTEMPTS or waited >= LOCK_TIMEOUT:
                return False

    def _contend(self) -> Steps:
        """Look, and take the lock or wait, as lock/contender.py does. Needs a connection."""
        connected, short, left, looked = True, 0, LOCK_TIMEOUT, self._now
        while True:
            if not connected:
                ended = yield from self._login()
                connected = ended == CONNECTED
                short += not connected
            if connected:
                yield self._served(self._costs.look)
                looked = self._now if self._locked else looked
                if self._released is not None:
                    self._places += 1
                    self._up.append(self._now)
                    return
                if not self._locked:
                    ended = yield from self._login()
                    if ended == CONNECTED and not self._locked:
                        yield from self._lead()
                        return
                    if ended == CONNECTED:
                        self._places += 1
                    else:
                        short, connected = short + 1, False
                        self._places += 1
            if connected:
                short = short + 1 if self._places < self._pauses.spare else 0
                connected = not short
                self._places += not connected
            before = self._now
            yield from self._rest(connected, short)
            # The clock stays stopped for a while after a living holder was seen.
            left -= max(0.0, self._now - max(before, looked + BELIEVED))
            if left <= 0:
                self._places += connected
                self._failed += 1
                return

    def _rest(self, connected: bool, short: int) -> Steps:  # noqa: FBT001 - a state, passed on
        if not connected:
            yield self._now + self._pauses.waiting(short - 1)
        elif not self._locked:
            yield self._now + pause_between_looks()
        else:
            end = self._now + pause_with_glances()
            while self._locked and self._now < end:
                yield min(end, self._now + pause_between_glances())
                yield self._served(self._costs.glance)

    def _lead(self) -> Steps:
        """Migrate, on two connections."""
        self._locked = True
        yield self._now + self._fleet.work
        self._locked, self._released = False, self._now
        self._places += 2
        self._up.append(self._now)
