"""Read the ledger `schema_migrations` and the row of `migration_lock`, in one round trip, changing nothing."""

from __future__ import annotations

from entrypoint.database.quoting import utc
from entrypoint.migration.ledger.keys import glance_at_lock, guard_key, guardian, holders, unguarded
from entrypoint.migration.ledger.place import LEGACY_TIME, LIFE_COLUMNS, Place, walk
from entrypoint.migration.ledger.rows import LedgerRow, as_ledger, ask, ledger_query
from entrypoint.migration.ledger.search import place_of, tables_sql
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign, foreign_values, without_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from entrypoint.database.answers import Row
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Queryable

# What the lock's row shows instead of a file's name while the holder takes a backup.
BACKUP = "backup"

# Whether fewer than a tenth of the connections that the server, the database or the user may have are left, or fewer
# than a holder needs. Anybody may count the sessions. The server's own processes use none of these connections, and
# belong to no database.
_RESERVED = " - ".join(
    f"coalesce(pg_catalog.current_setting('{name}', true)::int, 0)"
    for name in ("superuser_reserved_connections", "reserved_connections")
)
_NEARLY_FULL = f"""
WITH s AS MATERIALIZED (
    SELECT a.datid, a.usesysid FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE a.datid IS NOT NULL
)
SELECT pg_catalog.bool_or(l.most >= 0 AND l.most - l.used < greatest(l.most / 10, 3)) FROM (
    SELECT pg_catalog.current_setting('max_connections')::int - {_RESERVED}, (SELECT pg_catalog.count(*) FROM s)
    UNION ALL
    SELECT d.datconnlimit, (SELECT pg_catalog.count(*) FROM s WHERE s.datid = d.oid)
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
    UNION ALL
    SELECT r.rolconnlimit, (SELECT pg_catalog.count(*) FROM s WHERE s.usesysid = r.oid)
    FROM pg_catalog.pg_roles r WHERE r.rolname = session_user
) l (most, used)"""


class LockRow(NamedTuple):
    """The row of `migration_lock`."""

    held: bool
    since: str | None
    seconds: float | None
    """How long it has been held, by the server's clock; None if it is free, or held since `infinity`."""
    holder: str | None
    process_id: int | None
    token: str | None
    migration: str | None
    """The file that the holder was last seen working on."""
    statement: int | None
    statements: int | None
    detail: Mapping[str, object]
    """What the holder knows about a long statement, for `progress.describe`; may be empty."""
    guard_pid: int | None = None
    """The server process that holds the guard's lock; None if the holder is an earlier release."""
    left: float | None = None
    """How many seconds it has left, by the server's clock."""

    @property
    def legacy(self) -> bool:
        """Whether a replica of the earlier system holds it. Those write no token."""
        return self.held and self.token is None

    def keeps_us_out(self, stale: float) -> bool:
        """Tell whether a replica of the earlier system holds it, and has done so for less than `stale` seconds."""
        return self.legacy and (self.seconds is None or self.seconds < stale)

    @property
    def who(self) -> str | None:
        """The holder, made safe to show: anybody may have written the row."""
        return self.holder and foreign(self.holder)

    @property
    def told(self) -> dict[str, object]:
        """The detail, made safe to show."""
        return foreign_values(self.detail)


class Guardian(NamedTuple):
    """The session that holds the guard's lock, according to PostgreSQL."""

    pid: int
    application: str
    makes: bool = False
    """Whether it holds the lock for creating the ledger instead."""


class KeyHolder(NamedTuple):
    """A session that holds one of the lock's keys, according to PostgreSQL."""

    pid: int
    application: str
    user: str
    guards: bool
    """Whether it is the guard's key; else it is that of a session that works outside a transaction."""
    makes: bool
    """Whether it is neither of these, but the key for creating the ledger."""
    exclusive: bool

    @property
    def unlike_ours(self) -> bool:
        """Whether it cannot be one of ours: those hold the guard's key exclusively, and the other one shared."""
        return self.guards is not self.exclusive

    @property
    def words(self) -> str:
        """The session in words, made safe to show."""
        return session_in_words(self.pid, self.user, self.application)


def session_in_words(pid: int, user: str, application: str) -> str:
    """Describe another client's session, made safe to show."""
    return f"backend {pid} of {foreign(user)}" + (f" ({foreign(application)})" if application else "")


class Look(NamedTuple):
    """What a contender saw in one look."""

    rows: tuple[LedgerRow, ...]
    lock: LockRow | None
    lock_free: bool
    """Whether nobody held the guard's lock at that moment."""


class Detail(NamedTuple):
    """The other columns of a row of `schema_migrations`."""

    applied_at: str | None
    """In UTC, as in 2026-11-22T10:30:00Z."""
    milliseconds: int | None
    application_version: str | None


class Reading(NamedTuple):
    """Everything in our tables, read in one round trip."""

    rows: tuple[LedgerRow, ...]
    lock: LockRow | None
    details: dict[int, Detail]
    """By number."""
    moved: bool
    """Whether the tables have changed since they were found, or belong to another owner; if so, do not rely on the
    rest."""
    standby: bool
    """Whether the server is now a standby, on which the primary's locks cannot be seen."""
    holders: tuple[KeyHolder, ...]
    """The sessions that hold the lock's keys. A contender holds the guard's key shared for an instant."""


def look(session: Queryable, place: Place, role: str | None, deadline: Deadline, *, contending: bool) -> Look:
    """Read the ledger in one round trip; if `contending`, also the lock's row and whether the lock is free.

    Keeps no locks. Raises StatementError with SQLSTATE 55P03 if another session has locked the tables.
    """
    free = f"pg_catalog.pg_try_advisory_xact_lock_shared({guard_key(place)})" if contending else None
    return _look(session, place, role, deadline, free)


def is_free(session: Queryable, place: Place, deadline: Deadline) -> bool:
    """Tell whether the guard's lock is free, with a single statement that reads no table and keeps no lock.

    Raises StatementError and ConnectionLostError.
    """
    return session.query(glance_at_lock(place), deadline)[0][0][0] == "t"


def look_on(session: Queryable, place: Place, role: str | None, deadline: Deadline) -> Look:
    """Read what a contender reads, without taking the lock even shared.

    On a standby, the lock looks free because the primary's locks cannot be seen. Raises what `look` does.
    """
    return _look(session, place, role, deadline, unguarded(place))


def look_at_holder(
    session: Queryable, place: Place, role: str | None, deadline: Deadline
) -> tuple[LockRow | None, Guardian | None, bool]:
    """Read the lock's row, who holds the guard's lock, and whether the server is running out of connections.

    Raises what `look` does.
    """
    rows, guardians, crowd = ask(session, role, deadline, (_lock_row_sql(place), guardian(place), _NEARLY_FULL))
    found = [Guardian(int(pid or 0), application or "", key == "3") for pid, application, key in guardians]
    return as_lock(rows), found[0] if found else None, crowd[0][0] == "t"


def read(session: Queryable, place: Place, schema: str | None, role: str | None, deadline: Deadline) -> Reading:
    """Read what `look_on` reads and all details, and check whether the tables are still as in `place`.

    `schema` is what `find` was given; if there was no ledger, the whole search_path is searched again. The check comes
    after reading: by then, nobody can alter the tables until this transaction ends. Raises what `look` does.
    """
    pinned = place.schema if place.founded else schema
    parts = (
        # The row first, then the keys, so that a holder that comes in between looks alive.
        *(_lock_row_sql(place), holders(place), ledger_query(place, later=True), _details_sql(place)),
        *(*walk(pinned), tables_sql(pinned, role, place.command), "SELECT pg_catalog.pg_is_in_recovery()"),
    )
    locks, keys, rows, details, *_, relations, standby = ask(session, role, deadline, parts)
    found = place_of(relations, pinned, place.command)
    moved = (found.schema, found.ledger, found.lock, found.commands) != (
        place.schema,
        place.ledger,
        place.lock,
        place.commands,
    )
    return Reading(
        as_ledger(rows),
        as_lock(locks),
        {int(row[0] or 0): _detail(row) for row in details},
        moved or (bool(found.intrusion) and not place.intrusion),
        standby[0][0] == "t",
        tuple(map(_key_holder, keys)),
    )


def _look(session: Queryable, place: Place, role: str | None, deadline: Deadline, free: str | None) -> Look:
    """Read the ledger. If there is a condition `free`, also read the lock's row and evaluate the condition."""
    about_lock = () if free is None else (_lock_row_sql(place), f"SELECT {free}")
    *found, rows = ask(session, role, deadline, (*about_lock, ledger_query(place, later=True)))
    if not found:
        return Look(as_ledger(rows), None, lock_free=False)
    locks, answer = found
    return Look(as_ledger(rows), as_lock(locks), lock_free=answer[0][0] == "t")


def _details_sql(place: Place) -> str:
    if not place.ledger:
        return "SELECT 1 WHERE false"
    others = ", ".join(column_or_null(name, place.ledger) for name in ("execution_time_ms", "application_version"))
    applied_at = utc_column("applied_at", place.ledger)
    return f"SELECT migration_number, {applied_at}, {others} FROM {place.table('schema_migrations')}"


def _detail(row: Row) -> Detail:
    _, applied_at, milliseconds, version = row
    # Earlier releases recorded APP_VERSION unfiltered, so it can contain an address.
    return Detail(
        applied_at, None if milliseconds is None else int(milliseconds), version and without_addresses(version)
    )


def _lock_row_sql(place: Place) -> str:
    if not place.lock:
        return "SELECT 1 WHERE false"

    locked_at = with_zone("locked_at", place.lock)
    others = ", ".join(
        column_or_null(name, place.lock)
        for name in ("token", "progress_migration", "progress_statement", "progress_statements")
    )
    # A holder from an earlier release does not know this column, and leaves in it what another holder wrote before.
    detail = "CASE WHEN progress_detail ->> 'token' = token THEN progress_detail - 'token' END"
    life = "NULL, NULL"
    if place.lock.keys() >= LIFE_COLUMNS.keys():
        # The same goes for these columns.
        life = (
            "CASE WHEN guard_token = token THEN guard_pid END, "
            "CASE WHEN guard_token = token AND pg_catalog.isfinite(until) "
            "THEN extract(epoch FROM until - pg_catalog.clock_timestamp()) END"
        )
    return (
        f"SELECT locked_at IS NOT NULL, coalesce({utc_column('locked_at', place.lock)}, locked_at::text), "
        # `infinity` cannot be subtracted, so the result is NULL: held forever. `-infinity` becomes year 1.
        f"CASE WHEN {locked_at} < 'infinity' THEN extract(epoch FROM pg_catalog.clock_timestamp() - "
        f"greatest({locked_at}, '0001-01-01 UTC'::timestamptz)) END, locked_by, process_id, {others}, "
        f"{detail if 'progress_detail' in place.lock else 'NULL'}, {life} "
        f"FROM {place.table('migration_lock')} WHERE id = 1"
    )


def column_or_null(name: str, columns: dict[str, str]) -> str:
    """Return a column's name, or NULL if the earlier system's table lacks it."""
    return name if name in columns else "NULL"


def with_zone(name: str, columns: dict[str, str]) -> str:
    """Return an expression for a time as `timestamptz`, whatever its column's type.

    The earlier system wrote NOW() into a column without time zone. Its sessions used the server's default time zone,
    which may differ from this session's.
    """
    if columns.get(name) == LEGACY_TIME:
        return f"({name} AT TIME ZONE (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'))"
    return name


def utc_column(name: str, columns: dict[str, str]) -> str:
    """Return an expression for a time as text in UTC, as in 2026-11-22T10:30:00Z; NULL for `infinity`."""
    return utc(with_zone(name, columns))


def _lock_row(row: Row) -> LockRow:
    held, since, seconds, holder, process_id, token, migration, statement, statements, detail, guard_pid, left = row

    def number(text: str | None) -> int | None:
        return None if text is None else int(text)

    return LockRow(
        held=held == "t",
        since=since,
        seconds=None if seconds is None else float(seconds),
        holder=holder,
        process_id=number(process_id),
        token=token,
        migration=migration,
        statement=number(statement),
        statements=number(statements),
        detail=_parsed(detail),
        guard_pid=number(guard_pid),
        left=None if left is None else float(left),
    )


def _key_holder(row: Row) -> KeyHolder:
    pid, application, user, guards, makes, exclusive = row
    return KeyHolder(int(pid or 0), application or "", user or "", guards == "t", makes == "t", exclusive == "t")


def _parsed(detail: str | None) -> Mapping[str, object]:
    if detail is None:
        return {}
    import json

    try:
        found = json.loads(detail)
    except (ValueError, RecursionError):  # PostgreSQL accepts more than Python: a number with 5000 digits, for example.
        return {}
    return found if isinstance(found, dict) else {}


def lock_query(place: Place) -> str:
    """Return the query for the lock's row; `as_lock` reads its answer."""
    return _lock_row_sql(place)


def as_lock(rows: list[Row]) -> LockRow | None:
    """Return the lock's row from the answer to `lock_query`; None if there is none."""
    return _lock_row(rows[0]) if rows else None
