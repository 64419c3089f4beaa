"""The advisory locks of a ledger: their keys, and the conditions and queries for who holds them."""

from __future__ import annotations

from binascii import crc32

from entrypoint.database.address import OURS
from entrypoint.database.quoting import THIS_DATABASE, literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.ledger.place import Place

# The first half of the advisory lock's key: the letters "pgep". Documented in docs/lock.md; never change it, as
# replicas of two releases must exclude each other.
LOCK_CLASS = 0x70676570
# Held while a ledger is created, one key for the whole database: until the ledger exists, others may look for it in
# another schema.
MAKING_KEY = f"{LOCK_CLASS + 2}, 0"
# A condition: `g` is that lock.
MAKES = f"g.classid = {LOCK_CLASS + 2} AND g.objid = 0"
# A condition: the session that holds the lock `g` does not have one of our application names.
_NOT_OURS = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(g.pid) o "
    f"WHERE pg_catalog.starts_with(o.application_name, '{OURS}'))"
)
# All advisory locks `g` in this database with a two-part key.
_ADVISORY = (
    "FROM pg_catalog.pg_locks g WHERE g.locktype = 'advisory' AND g.granted AND g.objsubid = 2 "
    f"AND g.database = {THIS_DATABASE}"
)


def guard_key(place: Place) -> str:
    """Return the guard's advisory lock, as the arguments of PostgreSQL's functions."""
    return f"{LOCK_CLASS}, {lock_key(place.schema)}"


def glance_at_lock(place: Place) -> str:
    """Return the statement with which a waiter checks whether the guard's advisory lock is free."""
    return f"SELECT pg_catalog.pg_try_advisory_xact_lock_shared({guard_key(place)})"


def session_key(place: Place) -> str:
    """Return the advisory lock that a session holds, shared, while it works outside a transaction."""
    return f"{LOCK_CLASS + 1}, {lock_key(place.schema)}"


def guarded_by(place: Place, backend_pid: int) -> str:
    """Return a condition: this backend now holds the guard's advisory lock."""
    return f"(SELECT count(*) {_guards(place)} AND g.mode = 'ExclusiveLock' AND g.pid = {backend_pid}) = 1"


def keeps_the_row(place: Place) -> str:
    """Return a condition about a session `s`: nobody can take over from it, because of its fence or its session lock.

    Its name alone would not do. Behind a pooler, a server session keeps the application_name of one client for the
    next one that sets none, which may be the application.
    """
    fences = f"SELECT f.pid {locks_of_the_row(place)} AND f.mode = 'RowShareLock'"
    return f"(s.pid IN ({fences}) OR s.pid IN (SELECT g.pid {keyed(place, LOCK_CLASS + 1)}))"


def locks_of_the_row(place: Place) -> str:
    """Return the FROM clause for the table locks `f` on `migration_lock`; a fence is one in mode RowShareLock."""
    return (
        "FROM pg_catalog.pg_locks f JOIN pg_catalog.pg_class c ON c.oid = f.relation "
        f"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE f.database = {THIS_DATABASE} AND f.granted "
        f"AND c.relname = 'migration_lock' AND n.nspname = {literal(place.schema)}"
    )


def unguarded(place: Place) -> str:
    """Return a condition: nobody now holds the guard's advisory lock. It only reads pg_locks."""
    return f"NOT EXISTS (SELECT {_guards(place)})"


def guardian(place: Place) -> str:
    """Return the query for who holds the guard's advisory lock: the pid and the application_name.

    After that come the sessions without our application name that hold the session lock, which also keeps us from
    the row. If there is no ledger yet, those that hold the lock for creating it come last.
    """
    name = "(SELECT a.application_name FROM pg_catalog.pg_stat_activity a WHERE a.pid = g.pid)"
    return (
        f"SELECT g.pid, {name}, 1 {_guards(place)} UNION ALL "
        f"SELECT g.pid, {name}, 2 {keyed(place, LOCK_CLASS + 1)} AND {_NOT_OURS}"
        + ("" if place.founded else f" UNION ALL SELECT g.pid, {name}, 3 {_ADVISORY} AND {MAKES} AND {_NOT_OURS}")
        + " ORDER BY 3, 1"
    )


def holders(place: Place) -> str:
    """Return the query for all sessions that hold one of the two advisory locks, in any mode.

    If there is no ledger, the lock for creating it counts, too. `reading._key_holder` reads the rows.
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
    # A contender that looks holds the lock shared for an instant. Any other session that holds it shared keeps all
    # contenders out.
    return f"{keyed(place, LOCK_CLASS)} AND (g.mode = 'ExclusiveLock' OR {_NOT_OURS})"


def keyed(place: Place, *first_keys: int) -> str:
    """Return the FROM clause for the advisory locks `g` with one of these first keys and the place's second key."""
    return f"{_ADVISORY} AND {_key_is(place, *first_keys)}"


def _key_is(place: Place, *first_keys: int) -> str:
    return f"g.classid IN ({', '.join(map(str, first_keys))}) AND g.objid = {lock_key(place.schema) % 2**32}"


def lock_key(schema: str) -> int:
    """Return the second half of the advisory lock's key: the CRC-32 of the schema's name, as a signed integer."""
    value = crc32(schema.encode())
    return value - 2**32 if value >= 2**31 else value
