"""The advisory locks of a ledger's place: their keys, and the conditions and queries for who holds them."""

from __future__ import annotations

from binascii import crc32

from entrypoint.database.address import OURS
from entrypoint.database.quoting import THIS_DATABASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.ledger.place import Place

# The first half of the advisory lock's key: the letters "pgep". Documented in docs/lock.md; never change it, as
# replicas of two releases must exclude each other.
LOCK_CLASS = 0x70676570
# Held while a ledger is made, by one in the whole database: until it is there, others may look for it elsewhere.
MAKING_KEY = f"{LOCK_CLASS + 2}, 0"
# A condition: the lock `g` is that one.
MAKES = f"g.classid = {LOCK_CLASS + 2} AND g.objid = 0"
# A condition: the session that has the lock `g` does not have such a name.
_NOT_OURS = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(g.pid) o "
    f"WHERE pg_catalog.starts_with(o.application_name, '{OURS}'))"
)
# All advisory locks `g` of this database that have two keys.
_ADVISORY = (
    "FROM pg_catalog.pg_locks g WHERE g.locktype = 'advisory' AND g.granted AND g.objsubid = 2 "
    f"AND g.database = {THIS_DATABASE}"
)


def guard_key(place: Place) -> str:
    """Return the guard's advisory lock, as the arguments of PostgreSQL's functions."""
    return f"{LOCK_CLASS}, {lock_key(place.schema)}"


def glance(place: Place) -> str:
    """Return the statement by which whoever waits sees whether the guard's advisory lock is free."""
    return f"SELECT pg_catalog.pg_try_advisory_xact_lock_shared({guard_key(place)})"


def session_key(place: Place) -> str:
    """Return the advisory lock that a session holds, shared, while it works outside a transaction."""
    return f"{LOCK_CLASS + 1}, {lock_key(place.schema)}"


def guarded_by(place: Place, backend_pid: int) -> str:
    """Return a condition: that backend holds the guard's advisory lock at this moment."""
    return f"(SELECT count(*) {_guards(place)} AND g.mode = 'ExclusiveLock' AND g.pid = {backend_pid}) = 1"


def unguarded(place: Place) -> str:
    """Return a condition: nobody holds the guard's advisory lock at this moment. It is asked without touching it."""
    return f"NOT EXISTS (SELECT {_guards(place)})"


def guardian(place: Place) -> str:
    """Return the query for who holds the guard's advisory lock: the pid, and what its session calls itself.

    After it, who holds the other one and is no session of ours by its name: that keeps us from the row as well. And
    where there is no ledger yet, who holds in the same way the one under which it is made.
    """
    name = "(SELECT a.application_name FROM pg_catalog.pg_stat_activity a WHERE a.pid = g.pid)"
    return (
        f"SELECT g.pid, {name}, 1 {_guards(place)} UNION ALL "
        f"SELECT g.pid, {name}, 2 {_keyed(place, LOCK_CLASS + 1)} AND {_NOT_OURS}"
        + ("" if place.founded else f" UNION ALL SELECT g.pid, {name}, 3 {_ADVISORY} AND {MAKES} AND {_NOT_OURS}")
        + " ORDER BY 3, 1"
    )


def holders(place: Place) -> str:
    """Return the query for all who hold one of the two advisory locks, in whatever mode; `_key_holder` reads its rows.

    Where there is no ledger, also who holds the lock under which one is made.
    """
    keys = _key_is(place, LOCK_CLASS, LOCK_CLASS + 1)
    activity = "FROM pg_catalog.pg_stat_get_activity(g.pid) a"
    return (
        f"SELECT g.pid, (SELECT a.application_name {activity}), "
        f"(SELECT pg_catalog.pg_get_userbyid(a.usesysid) {activity}), "
        f"g.classid = {LOCK_CLASS}, g.classid = {LOCK_CLASS + 2}, g.mode = 'ExclusiveLock' "
        f"{_ADVISORY} AND ({keys if place.founded else f'{keys} OR {MAKES}'}) ORDER BY 1"
    )


def _guards(place: Place) -> str:
    # A contender that looks has the lock for an instant, shared. Who else has it shared, keeps everybody away.
    return f"{_keyed(place, LOCK_CLASS)} AND (g.mode = 'ExclusiveLock' OR {_NOT_OURS})"


def _keyed(place: Place, *first_keys: int) -> str:
    return f"{_ADVISORY} AND {_key_is(place, *first_keys)}"


def _key_is(place: Place, *first_keys: int) -> str:
    return f"g.classid IN ({', '.join(map(str, first_keys))}) AND g.objid = {lock_key(place.schema) % 2**32}"


def lock_key(schema: str) -> int:
    """Return the second half of the advisory lock's key: the CRC-32 of the schema's name, as a signed integer."""
    value = crc32(schema.encode())
    return value - 2**32 if value >= 2**31 else value
