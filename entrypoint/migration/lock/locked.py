"""Somebody has locked the ledger's tables: who that is, and the error when the time for waiting is over."""

from __future__ import annotations

from entrypoint.database import session_state
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.errors.migration import LockTimeoutError
from entrypoint.migration.observe import blockers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.observe.blockers import Blocker

_PATIENCE = 1.0
TABLES = ("schema_migrations", "migration_lock")
_REPEATABLES = "repeatable_migrations"


def who_locks(
    session: Session, place: Place, rows_of: Sequence[str] = (), *, readers: bool = False
) -> tuple[Blocker, ...]:
    """Ask PostgreSQL who keeps others out of the ledger's tables; whoever is most in the way comes first.

    `rows_of`: also who has locked or changed a row of one of these, and is no session of ours. `readers`: also who has
    one of the tables locked in whatever way, and is none: so they may not be altered.
    Empty if nobody does any more, or if it does not say. Raises ConnectionLostError.
    """
    tables = (*TABLES, _REPEATABLES)
    query = blockers.locking(place.schema, tables, tables if readers else rows_of, OURS, readers=readers)
    ask = f"BEGIN READ ONLY; {session_state.ours(None)} {query}; COMMIT"
    try:
        return blockers.read_blockers(session.query(ask, Deadline(_PATIENCE))[-2])
    except StatementError:
        session.rollback(Deadline(1.0))
        return ()


def describe(found: Sequence[Blocker]) -> str:
    """Say in one clause that the ledger is locked, and by whom."""
    if not found:
        return "the migration history is locked by an unknown session"
    return f"the migration history is locked by {' and '.join(blocker.words() for blocker in found)}"


def timed_out(found: Sequence[Blocker], seconds: float) -> LockTimeoutError:
    """Return the error for a ledger that was locked for longer than we may wait, which was so many `seconds`."""
    what = describe(found)
    if milliseconds := round(seconds * 1000):
        what = f"Failed to acquire migration lock after {milliseconds}ms: {what}"
    blocker = found[0] if found else None
    if blocker is None:
        remedy = "SELECT * FROM pg_locks WHERE relation = 'schema_migrations'::regclass shows who holds a lock on it."
    elif (blocker.application or "").startswith(OURS):
        remedy = (
            "That is a replica running migrations: set MIGRATION_LOCK_TIMEOUT_MS to at least its "
            "MIGRATION_TIMEOUT_MS, or leave it unset. To stop it: entrypoint unlock --force."
        )
    else:
        remedy = blocker.remedy()
    known = {} if blocker is None else blockers.blocker_fields(blocker)
    return LockTimeoutError(f"{what[0].upper()}{what[1:]}", remedy=remedy, **known)
