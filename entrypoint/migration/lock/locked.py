"""When the ledger's tables are locked: which sessions have locked them, and the error for a wait that took too long."""

from __future__ import annotations

from entrypoint.database import session_state
from entrypoint.database.address import OURS
from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.errors.migration import LockTimeoutError
from entrypoint.migration.ledger import repeatables
from entrypoint.migration.ledger.place import TABLES
from entrypoint.migration.observe import blockers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.session import Session
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.observe.blockers import Blocker

_PATIENCE = 1.0


def who_locks(
    session: Session, place: Place, rows_of: Sequence[str] = (), *, readers: bool = False
) -> tuple[Blocker, ...]:
    """Ask PostgreSQL which sessions keep others out of the ledger's tables; the main culprit comes first.

    `rows_of`: include other applications' sessions that have locked or changed a row of one of these tables. `readers`:
    include other applications' sessions that have any lock on one of the tables, which prevents altering it. Returns an
    empty tuple if there are none any more, or if the server does not say. Raises ConnectionLostError.
    """
    tables = (*TABLES, repeatables.TABLE)
    query = blockers.locking(place.schema, tables, tables if readers else rows_of, OURS, readers=readers)
    ask = f"BEGIN READ ONLY; {session_state.ours(None)} {query}; COMMIT"
    try:
        return blockers.read_blockers(session.query(ask, Deadline(_PATIENCE))[-2])
    except StatementError:
        session.rollback(Deadline(1.0))
        return ()


def describe(found: Sequence[Blocker]) -> str:
    """Return a clause that says that the ledger is locked, and by which sessions."""
    if not found:
        return "the migration history is locked by an unknown session"
    return f"the migration history is locked by {' and '.join(blocker.words() for blocker in found)}"


def locked_too_long(found: Sequence[Blocker], seconds: float) -> LockTimeoutError:
    """Return the error for a ledger that stayed locked until our waiting time was up; `seconds`: how long that was."""
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
