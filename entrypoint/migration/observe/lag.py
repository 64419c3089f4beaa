"""How far standbys are behind, in bytes that they still have to replay. Pure functions.

Replication slots are not used: one reported 0 while 92 MB were still to be replayed.
"""

from __future__ import annotations

from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.answers import Row


class Lag(NamedTuple):
    """The standby, or subscriber, that is furthest behind."""

    known: bool
    """Whether this user may see it; also true if there is none."""
    name: str = ""
    bytes_: int = 0


def lag_query() -> str:
    """Return the query for this server's standbys and subscribers; `read_lag` reads its answer.

    A user without the privilege to see them gets rows of NULL. A base backup in progress does not count: it does not
    replay.
    """
    return (
        "SELECT r.state IS NOT NULL, coalesce(nullif(r.application_name, ''), 'a standby'), "
        "pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn)::pg_catalog.int8 "
        "FROM pg_catalog.pg_stat_replication r WHERE r.state IS DISTINCT FROM 'backup'"
    )


def read_lag(rows: list[Row]) -> Lag:
    """Read the result of `lag_query`."""
    if any(seen != "t" for seen, _, _ in rows):
        return Lag(known=False)
    behind = [(int(bytes_), name or "") for _, name, bytes_ in rows if bytes_ is not None]
    bytes_, name = max(behind, default=(0, ""))
    return Lag(known=True, name=name, bytes_=bytes_)
