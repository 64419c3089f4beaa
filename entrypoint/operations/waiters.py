"""Find the starts that wait for the migration lock, as far as PostgreSQL shows them.

A waiting start has a session, but holds and writes nothing (docs/lock.md). Its last statement distinguishes it from
the other sessions of this program. PostgreSQL shows that statement to the session's own role, to members of that role,
and to `pg_read_all_stats`.
"""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple

from entrypoint.database.address import OURS
from entrypoint.database.quoting import literal, utc
from entrypoint.migration.ledger.keys import glance_at_lock
from entrypoint.migration.ledger.rows import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place

# A waiting start glances every 0.4 s, and every 2 s it looks, with another statement. Behind a pooler, a session keeps
# the name and the last statement of a start that has disconnected.
_RECENT = 10.0


class Waiter(NamedTuple):
    """A start that waits for the lock."""

    address: str
    """The client's address, or the pooler's; empty for a local socket."""
    since: str
    """When it connected, as in 2026-11-22T10:30:00Z."""


class Waiters(NamedTuple):
    """The waiting starts at one moment."""

    known: bool
    """Whether our role can see the statements of all sessions of this program. If not, there may be more."""
    starts: tuple[Waiter, ...]

    def documented(self) -> list[dict[str, object]] | None:
        """Return them in the form of the status API; None if our role cannot see them all."""
        if not self.known:
            return None
        return [{"address": one.address or None, "since": one.since} for one in self.starts]


class _Sighting(NamedTuple):
    """The sessions of one process."""

    name: str
    waiter: Waiter
    glances: bool
    hidden: bool


class Lookout:
    """Remembers who was seen waiting, because during its own look a waiting start cannot be recognized."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Start with an empty memory."""
        self._clock = clock
        self._seen: dict[str, float] = {}

    def look(self, session: Session, place: Place, token: str | None, deadline: Deadline) -> Waiters:
        """Return the starts that wait for the holder with this token, in one round trip. Raises StatementError."""
        rows = ask(session, None, deadline, (_query(place),))[0]
        holder = OURS + token.partition(".")[0] if token else None
        return self._judge([found for found in map(_sighting, rows) if found.name != holder])

    def forget(self) -> None:
        """Forget who was seen: the lock is free, so nobody waits."""
        self._seen = {}

    def _judge(self, found: list[_Sighting]) -> Waiters:
        now = self._clock()
        there = {one.name for one in found}
        self._seen = {name: at for name, at in self._seen.items() if name in there and now - at < _RECENT}
        self._seen |= {one.name: now for one in found if one.glances}
        starts = sorted((one.waiter for one in found if one.name in self._seen), key=lambda one: one[::-1])
        return Waiters(not any(one.hidden for one in found), tuple(starts))


def _query(place: Place) -> str:
    """Return the query for the sessions of this program, with a row for each process."""
    return f"""
        SELECT a.application_name, min(pg_catalog.host(a.client_addr)),
               {utc("min(a.backend_start)")},
               bool_or(a.query = {literal(glance_at_lock(place))}
                   AND a.query_start > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => {_RECENT:g})),
               bool_or(a.backend_start IS NULL)
        FROM pg_catalog.pg_stat_activity a
        WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
            AND pg_catalog.starts_with(a.application_name, {literal(OURS)})
        GROUP BY 1"""


def _sighting(row: Row) -> _Sighting:
    name, address, since, glances, hidden = row
    return _Sighting(name or "", Waiter(address or "", since or ""), glances == "t", hidden == "t")
