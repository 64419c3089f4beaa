"""The holder of the migration lock, seen from outside: its row, its sessions, and how an operator can end them."""

from __future__ import annotations

from entrypoint.database import transactions
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import literal, our_state, utc
from entrypoint.database.sqlstate import INSUFFICIENT_PRIVILEGE
from entrypoint.migration.ledger import reading
from entrypoint.migration.ledger.keys import LOCK_CLASS, MAKES, lock_key, locks_of_the_row
from entrypoint.migration.ledger.place import HOLDER_COLUMNS
from entrypoint.migration.ledger.writing import set_to_null
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

# As in `release_stale_migration_locks()`, which operators know; not MIGRATION_LOCK_STALE_MS.
_STALE = 600.0


class Backend(NamedTuple):
    """A server session that belongs to the lock's holder."""

    pid: int
    application: str
    user: str
    client: str
    """Its address, or that of the pooler; empty if we may not see it."""
    state: str
    """What it is doing; empty if we may not see that."""
    seconds: float | None
    """How long its transaction has been open."""
    guards: bool
    """Whether it holds the guard's advisory lock, which is the migration lock itself."""
    outside: bool
    """Whether it holds the advisory lock of a session that works outside a transaction."""
    fences: bool
    """Whether its transaction has locked the lock's row (the fence)."""
    since: str = ""
    """When it connected; empty if we may not see that."""
    makes: bool = False
    """Whether it holds the advisory lock that protects creating the ledger; False if the ledger already exists."""
    unlike_ours: bool = False
    """Whether it holds a key in a mode that our sessions never use: the guard's shared, or the second exclusive."""

    @property
    def keyed(self) -> bool:
        """Whether it holds one of the advisory locks."""
        return self.guards or self.outside or self.makes

    @property
    def holds(self) -> bool:
        """Whether it keeps others from taking over."""
        return self.keyed or self.fences


class Observed(NamedTuple):
    """The lock's row and the holder's sessions at one moment."""

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
        """The `application_name` of the holder's sessions, from the row's token or else from the guard.

        Never that of a session that is not ours: sessions that have nothing to do with the lock share such names, like
        `psql`.
        """
        if self.row is not None and self.row.token:
            return _application(self.row.token)
        ours = (backend.application for backend in self.backends if backend.guards and not self.is_strange(backend))
        return next(ours, None)

    def is_strange(self, backend: Backend) -> bool:
        """Tell whether a session that is neither our holder's nor a contender's holds a key, or has locked the row.

        A migration may rename its session, which may hold the second key, but never that of the guard. If the row has
        no token, a session with another name that has locked it is not a migration either.
        """
        if not backend.keyed:
            ours = backend.application.startswith(OURS)
            return backend.fences and not ours and (self.row is None or self.row.token is None)
        return is_strange(backend, self.row)

    @property
    def strangers(self) -> tuple[Backend, ...]:
        """The sessions that hold a key or have locked the row, but do not belong to our replicas."""
        return tuple(filter(self.is_strange, self.backends))

    @property
    def only_strangers(self) -> bool:
        """Whether a session that is not ours holds a key or has locked the row, and none of ours holds a key."""
        return bool(self.strangers) and not any(
            backend.keyed and not self.is_strange(backend) for backend in self.backends
        )

    @property
    def taken_by_another(self) -> bool:
        """Whether a session other than the row's holder holds the guard's lock, as a contender does for a moment."""
        return any(backend.guards and backend.application != self.application for backend in self.backends)

    @property
    def stale(self) -> bool:
        """Whether the row can be freed without asking: its holder is dead, or an old one of the earlier system."""
        if self.row is None or not self.row.held or self.alive:
            return False
        return not self.row.legacy or (self.row.seconds is not None and self.row.seconds > _STALE)


def is_strange(one: Backend | KeyHolder, row: LockRow | None) -> bool:
    """Tell whether a session that holds one of the keys is not a holder of ours; `row` is the lock's row."""
    if one.application.startswith(OURS):
        return False
    if one.makes or one.unlike_ours or row is None or not row.held:
        return True
    # A holder of an earlier release does not record which session its guard is.
    return one.guards and (row.legacy or row.guard_pid not in (None, one.pid))


def observe(
    session: Session, place: Place, role: str | None, deadline: Deadline, application: str | None = None
) -> Observed:
    """Read the lock's row, and the sessions that hold the lock or have the name of the row's holder.

    `application`: another name to look for, that of an earlier holder. The row is read first. So a holder that releases
    the lock in between looks dead, but its row will then be found free; and one that takes the lock looks alive. The
    row is read as `role`, and the sessions as the login user, who can see more of them.
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
    """Free the row in the way documented for operators, unless it has changed since it was read; tell whether it was.

    The token stays in the row: if the holder is alive after all, it sees from it that an operator freed the lock.
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
            f"{begin}\n{transactions.ON_THIS_SERVER}\nUPDATE {table} SET {set_to_null(HOLDER_COLUMNS)} "
            f"WHERE id = 1 AND locked_at IS NOT NULL AND {' AND '.join(same)} RETURNING id;\nCOMMIT",
            deadline,
        )
    except StatementError:
        session.rollback(deadline.within(1))
        raise
    return bool(results[-2])


def end(session: Session, backend: Backend, deadline: Deadline) -> bool:
    """End a server session; return False if this user lacks the privilege."""
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
    # Our own sessions hold these only for an instant: when they check whether the lock is free, and take the row.
    not_ours = f"NOT pg_catalog.starts_with(coalesce(a.application_name, ''), {literal(OURS)})"
    fence = (
        f"EXISTS (SELECT {locks_of_the_row(place)} AND f.pid = a.pid "
        f"AND (f.mode = 'RowShareLock' OR {not_ours} AND f.mode IN {_KEEPS_OUT}))"
    )
    guard, guard_shared = (_holds(place, LOCK_CLASS, mode) for mode in ("ExclusiveLock", "ShareLock"))
    session, session_alone = (_holds(place, LOCK_CLASS + 1, mode) for mode in ("ShareLock", "ExclusiveLock"))
    makes = "false" if place.founded else f"EXISTS (SELECT {_LOCKS} AND {MAKES})"
    return f"""
        SELECT b.pid, b.application_name, b.usename, CASE WHEN b.state IS NULL THEN ''
                    ELSE coalesce(pg_catalog.host(b.client_addr), 'the local socket') END,
               b.state, extract(epoch FROM pg_catalog.clock_timestamp() - b.xact_start), b.guards, b.outside, b.fences,
               pg_catalog.{utc("b.backend_start")}, b.makes,
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


# If others hold one of these, we cannot take the row. Autovacuum's lock is not among them.
_KEEPS_OUT = "('RowExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"

# The advisory locks `g` of the backend `a` whose key consists of two numbers.
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
