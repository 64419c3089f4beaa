"""Whoever holds the migration lock, seen from outside: its row, its sessions, and what an operator may do to them."""

from __future__ import annotations

from entrypoint.database import transactions
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import literal, our_state
from entrypoint.database.sqlstate import INSUFFICIENT_PRIVILEGE
from entrypoint.migration.ledger import reading
from entrypoint.migration.ledger.keys import LOCK_CLASS, MAKES, lock_key
from entrypoint.migration.ledger.place import HOLDER_COLUMNS
from entrypoint.migration.ledger.writing import nothing
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Row
    from entrypoint.database.session import Session
    from entrypoint.deadline import Deadline
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.reading import KeyHolder, LockRow

_LOCK_TIMEOUT_MS = 2_000

# As `release_stale_migration_locks()` has it, which is what operators know; not MIGRATION_LOCK_STALE_MS.
_STALE = 600.0


class Backend(NamedTuple):
    """A server session that belongs to the lock's holder."""

    pid: int
    application: str
    user: str
    client: str
    """Its address, behind a pooler the pooler's; empty if we may not see that."""
    state: str
    """What it is doing; empty if we may not see that."""
    seconds: float | None
    """For how long its transaction has been open."""
    guards: bool
    """Whether it holds the guard's advisory lock: that is the lock itself."""
    outside: bool
    """Whether it holds the advisory lock of a session that works outside a transaction."""
    fences: bool
    """Whether its transaction holds the lock's row (the fence)."""
    since: str = ""
    """When it connected; empty if we may not see that."""
    makes: bool = False
    """Whether it holds the advisory lock that protects creating the ledger; not asked if the ledger exists."""
    unlike_ours: bool = False
    """Whether it holds a key in a mode that no session of ours uses: the guard's shared, or the other exclusively."""

    @property
    def keyed(self) -> bool:
        """Whether it holds one of the advisory locks."""
        return self.guards or self.outside or self.makes

    @property
    def holds(self) -> bool:
        """Whether it keeps others from taking over."""
        return self.keyed or self.fences


class Observed(NamedTuple):
    """What one look saw."""

    row: LockRow | None
    backends: tuple[Backend, ...]

    @property
    def held(self) -> bool:
        """Whether the row is filled."""
        return self.row is not None and self.row.held

    @property
    def alive(self) -> bool:
        """Whether somebody holds one of the advisory locks."""
        return any(backend.keyed for backend in self.backends)

    @property
    def application(self) -> str | None:
        """The `application_name` of the holder's sessions: by the row's token, else by who guards.

        Never a stranger's: it shares its name with sessions that have nothing to do with the lock, such as `psql`.
        """
        if self.row is not None and self.row.token:
            return _application(self.row.token)
        ours = (backend.application for backend in self.backends if backend.guards and not self.is_strange(backend))
        return next(ours, None)

    def is_strange(self, backend: Backend) -> bool:
        """Tell whether a session holds one of the keys without being a holder of ours, nor one that contends.

        A migration may change the name of its session, which may hold the second key; it never runs in the guard's.
        Nor does it stand before a row that bears no holder's token: that is somebody who has locked the row.
        """
        if not backend.keyed:
            ours = backend.application.startswith(OURS)
            return backend.fences and not ours and (self.row is None or self.row.token is None)
        return is_strange(backend, self.row)

    @property
    def strangers(self) -> tuple[Backend, ...]:
        """The sessions that hold a key, or have locked the row, without being replicas of ours."""
        return tuple(filter(self.is_strange, self.backends))

    @property
    def only_strangers(self) -> bool:
        """Whether somebody holds a key or has locked the row, and nobody of ours holds a key."""
        return bool(self.strangers) and not any(
            backend.keyed and not self.is_strange(backend) for backend in self.backends
        )

    @property
    def taken_by_another(self) -> bool:
        """Whether somebody other than the row's holder has the guard's lock: who contends has it for a moment."""
        return any(backend.guards and backend.application != self.application for backend in self.backends)

    @property
    def stale(self) -> bool:
        """Whether the row may be freed without asking anybody: its holder is dead, or of the earlier system and old."""
        if self.row is None or not self.row.held or self.alive:
            return False
        return not self.row.legacy or (self.row.seconds is not None and self.row.seconds > _STALE)


def is_strange(one: Backend | KeyHolder, row: LockRow | None) -> bool:
    """Tell whether a session that holds one of the keys is not one of our holders; `row` is the lock's."""
    if one.application.startswith(OURS):
        return False
    if one.makes or one.unlike_ours or row is None or not row.held:
        return True
    # A holder of an earlier release does not say which its guard is.
    return one.guards and (row.legacy or row.guard_pid not in (None, one.pid))


def observe(
    session: Session, place: Place, role: str | None, deadline: Deadline, application: str | None = None
) -> Observed:
    """Look at the lock's row, and at the sessions that hold the lock or have the name of the row's holder.

    `application` is a name to look for as well: that of an earlier holder. First the row, then the sessions: so
    a holder that lets go meanwhile looks dead, whose row is then found free, and one that comes looks alive. The
    row may be `role`'s to read, and the sessions are the login user's to see.
    """
    begin = [
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
        *our_state(role),
        f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}",
        f"SET LOCAL statement_timeout = {deadline.milliseconds()}",
        reading.lock_query(place),
    ]
    try:
        row = reading.as_lock(session.query(";\n".join(begin), deadline)[-1])
        names = [_application(row.token)] if row is not None and row.token else []
        names += [application] if application is not None else []
        backends = session.query(f"SET LOCAL ROLE NONE; {_backends_query(place, names)}; COMMIT", deadline)[1]
    except StatementError:
        session.rollback(deadline.within(1))
        raise
    return Observed(row, tuple(map(_backend, backends)))


def free(session: Session, place: Place, row: LockRow, role: str | None, deadline: Deadline) -> bool:
    """Free the row in the way documented for operators, if it is still as it was seen; tell whether it was.

    The token stays: from it a living holder, or a late one, learns that an operator took the lock.
    """
    table = place.table("migration_lock")
    same = [
        f"{name} IS NOT DISTINCT FROM {value}"
        for name, value in (
            ("locked_by", literal(row.holder)),
            ("process_id", "NULL" if row.process_id is None else str(row.process_id)),
            ("token", literal(row.token)),
        )
        if name in place.lock
    ]
    begin = transactions.begin(
        deadline, server_version=session.server_version, lock_timeout_ms=_LOCK_TIMEOUT_MS, role=role
    )
    try:
        results = session.query(
            f"{begin}\n{transactions.ON_THIS_SERVER}\nUPDATE {table} SET {nothing(HOLDER_COLUMNS)} "
            f"WHERE id = 1 AND locked_at IS NOT NULL AND {' AND '.join(same)} RETURNING id;\nCOMMIT",
            deadline,
        )
    except StatementError:
        session.rollback(deadline.within(1))
        raise
    return bool(results[-2])


def end(session: Session, backend: Backend, deadline: Deadline) -> bool:
    """End a server session; tell whether this user has the privilege to."""
    try:
        state = "; ".join(our_state(None))
        session.query(f"BEGIN; {state}; {transactions.end_sessions(f's.pid = {backend.pid}')}; COMMIT", deadline)
    except StatementError as error:
        session.rollback(deadline.within(1))
        if error.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        return False
    return True


def _application(token: str) -> str:
    return f"{OURS}{token.partition('.')[0]}"


def _backends_query(place: Place, names: Sequence[str]) -> str:
    named = ", ".join(map(literal, names)) or "NULL"
    # Ours have these for an instant only: when they look whether the lock is free, and when they take the row.
    not_ours = f"NOT pg_catalog.starts_with(coalesce(a.application_name, ''), {literal(OURS)})"
    fence = (
        "EXISTS (SELECT FROM pg_catalog.pg_locks f JOIN pg_catalog.pg_class c ON c.oid = f.relation "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE f.pid = a.pid AND f.database = a.datid "
        f"AND f.granted AND (f.mode = 'RowShareLock' OR {not_ours} AND f.mode IN {_KEEPS_OUT}) "
        f"AND c.relname = 'migration_lock' AND n.nspname = {literal(place.schema)})"
    )
    guard, guard_shared = (_holds(place, LOCK_CLASS, mode) for mode in ("ExclusiveLock", "ShareLock"))
    session, session_alone = (_holds(place, LOCK_CLASS + 1, mode) for mode in ("ShareLock", "ExclusiveLock"))
    makes = "false" if place.founded else f"EXISTS (SELECT {_LOCKS} AND {MAKES})"
    return f"""
        SELECT b.pid, b.application_name, b.usename, CASE WHEN b.state IS NULL THEN ''
                    ELSE coalesce(pg_catalog.host(b.client_addr), 'the local socket') END,
               b.state, extract(epoch FROM pg_catalog.clock_timestamp() - b.xact_start), b.guards, b.outside, b.fences,
               pg_catalog.to_char(b.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), b.makes,
               b.unlike_ours
        FROM (
            SELECT a.*, {guard} OR ({not_ours} AND {guard_shared}) AS guards,
                   {session} OR ({not_ours} AND {session_alone}) AS outside, {fence} AS fences,
                   {makes} AS makes, {guard_shared} OR {session_alone} AS unlike_ours
            FROM pg_catalog.pg_stat_activity a
            WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
        ) b
        WHERE b.guards OR b.outside OR b.fences OR b.makes OR b.application_name IN ({named})
        ORDER BY b.guards DESC, b.pid"""


def _holds(place: Place, first_key: int, mode: str) -> str:
    """Return a condition: the backend `a.pid` holds that advisory lock (docs/lock.md, "The keys")."""
    key = f"g.classid = {first_key} AND g.objid = {lock_key(place.schema) % 2**32}"
    return f"EXISTS (SELECT {_LOCKS} AND g.mode = '{mode}' AND {key})"


# Held by others, these keep us from taking the row. Not the one that autovacuum has.
_KEEPS_OUT = "('RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"

# The advisory locks `g` of the backend `a`, of those that have two keys.
_LOCKS = (
    "FROM pg_catalog.pg_locks g WHERE g.locktype = 'advisory' AND g.granted AND g.pid = a.pid AND g.objsubid = 2 "
    "AND g.database = a.datid"
)


def _backend(row: Row) -> Backend:
    pid, application, user, client, state, seconds, guards, outside, fences, since, makes, unlike_ours = row
    return Backend(
        pid=int(pid or 0),
        application=application or "",
        user=user or "",
        client=client or "",
        state=state or "",
        seconds=None if seconds is None else float(seconds),
        guards=guards == "t",
        outside=outside == "t",
        fences=fences == "t",
        since=since or "",
        makes=makes == "t",
        unlike_ours=unlike_ours == "t",
    )
