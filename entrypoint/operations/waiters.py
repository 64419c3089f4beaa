"""Which starts wait for the migration lock, as far as PostgreSQL shows it.

Waiting leaves no trace but a session: nobody holds or writes anything in order to wait (docs/lock.md). What tells a
session that waits from others of this program is its last statement, which PostgreSQL shows to the session's own role,
to its members, and to `pg_read_all_stats`.
"""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple

from entrypoint.database.address import OURS
from entrypoint.database.quoting import literal
from entrypoint.migration.ledger.keys import glance
from entrypoint.migration.ledger.rows import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place

# Whoever waits glances every 0.4 s, and looks every 2 s, which is another statement. Behind a pooler, a session keeps
# the name and the last statement of a start that has left.
_RECENT = 10.0


class Waiter(NamedTuple):
    """A start that waits for the lock."""

    address: str
    """The client's, behind a pooler the pooler's; empty for a socket on the server's own machine."""
    since: str
    """When it connected, as in 2026-11-22T10:30:00Z."""


class Waiters(NamedTuple):
    """Who waits at one moment."""

    known: bool
    """Whether our role may see what all sessions of this program do. If not, there may be more."""
    starts: tuple[Waiter, ...]

    def documented(self) -> list[dict[str, object]] | None:
        """Return them as the status API has them; None if we may not see them."""
        if not self.known:
            return None
        return [{"address": one.address or None, "since": one.since} for one in self.starts]


class _Sighting(NamedTuple):
    """All sessions of one process."""

    name: str
    waiter: Waiter
    glances: bool
    hidden: bool


class Lookout:
    """Remembers, from one look to the next, whom it has seen waiting: in the middle of a look that cannot be seen."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Begin with nobody seen."""
        self._clock = clock
        self._seen: dict[str, float] = {}

    def look(self, session: Session, place: Place, token: str | None, deadline: Deadline) -> Waiters:
        """Return who waits for the holder with this lease's token, in one round trip; raises StatementError."""
        rows = ask(session, None, deadline, (_query(place),))[0]
        holder = OURS + token.partition(".")[0] if token else None
        return self._judge([found for found in map(_sighting, rows) if found.name != holder])

    def forget(self) -> None:
        """Forget whom it has seen: nobody holds the lock, so nobody waits."""
        self._seen = {}

    def _judge(self, found: list[_Sighting]) -> Waiters:
        now = self._clock()
        there = {one.name for one in found}
        self._seen = {name: at for name, at in self._seen.items() if name in there and now - at < _RECENT}
        self._seen |= {one.name: now for one in found if one.glances}
        starts = sorted((one.waiter for one in found if one.name in self._seen), key=lambda one: one[::-1])
        return Waiters(not any(one.hidden for one in found), tuple(starts))


def _query(place: Place) -> str:
    """Return the query for the sessions of this program, a row for each process."""
    return f"""
        SELECT a.application_name, min(pg_catalog.host(a.client_addr)),
               to_char(min(a.backend_start) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               bool_or(a.query = {literal(glance(place))}
                   AND a.query_start > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => {_RECENT:g})),
               bool_or(a.backend_start IS NULL)
        FROM pg_catalog.pg_stat_activity a
        WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
            AND pg_catalog.starts_with(a.application_name, {literal(OURS)})
        GROUP BY 1"""


def _sighting(row: Row) -> _Sighting:
    name, address, since, glances, hidden = row
    return _Sighting(name or "", Waiter(address or "", since or ""), glances == "t", hidden == "t")
