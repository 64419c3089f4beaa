"""Change rows of the ledger by hand, so to speak: under the lock, behind the fence, in one transaction."""

from __future__ import annotations

from typing import NamedTuple

from entrypoint import logs
from entrypoint.database import classify
from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline, pause
from entrypoint.errors import ConnectionLostError, LedgerChangedError, MigrationError
from entrypoint.migration.apply.doubt import settle
from entrypoint.migration.apply.migrator import under_lock
from entrypoint.migration.ledger import reading
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.lock.contender import Contender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.session import Session
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.ledger.reading import LedgerRow
    from entrypoint.migration.lock.lease import Lease

_PATIENCE = 30.0
_LOCK_TIMEOUT_MS = 2_000
_PAUSE = 0.5


class Amendment(NamedTuple):
    """What is to be changed in the ledger."""

    shown: tuple[LedgerRow, ...]
    """All rows as an operator was shown them: only if they are still the same, anything is changed."""
    statements: Sequence[str]
    sign: str
    """The query that has a row if the change is in: for a commit in doubt, after a failover."""


def amend(assignment: Assignment, session: Session, place: Place, amendment: Amendment) -> None:
    """Take the lock and make the change. Raises EntrypointError; then nothing was changed, unless it says unknown.

    The ledger is created or upgraded first, if need be. Raises LedgerChangedError if it is not what was shown.
    """
    contender = Contender(assignment, session, place, regardless=True)
    try:
        under_lock(
            contender, assignment, lambda lease, clocks: _until_it_is_in(assignment, lease, amendment, clocks.turn_to())
        )
    finally:
        contender.close()


def _until_it_is_in(assignment: Assignment, lease: Lease, amendment: Amendment, deadline: Deadline) -> None:
    """Try; again and again if what prevents it may pass, while the time lasts."""
    while True:
        patience = deadline.within(_PATIENCE)
        try:
            lease.check_guard()
            _attempt(assignment, lease, amendment, patience)
        except StatementError as error:
            lease.worker.rollback(Deadline(1.0))
            if not classify.may_pass(error.sqlstate) or deadline.passed():
                doing, schema = "the ledger could not be changed", lease.place.schema
                raise refused_on(lease.worker, schema, assignment.role, error, doing, reading=False) from error
            logs.event(
                logs.WARNING,
                "ledger.locked",
                f"the ledger could not be changed yet: {error.primary}; trying again",
                sqlstate=error.sqlstate,
            )
            pause(min(_PAUSE, deadline.remaining()))
        else:
            return


def _attempt(assignment: Assignment, lease: Lease, amendment: Amendment, patience: Deadline) -> None:
    worker, place = lease.worker, lease.place
    transaction_id, _ = lease.open(patience, lock_timeout_ms=_LOCK_TIMEOUT_MS)
    # Not even a person may change it between the comparison and the change. Reading is not disturbed.
    lock = f"LOCK TABLE {place.table('schema_migrations')} IN SHARE ROW EXCLUSIVE MODE"
    now = reading.as_ledger(worker.query(f"{lock}; {reading.ledger_query(place)}", patience)[-1])
    if now != amendment.shown:
        raise LedgerChangedError(
            "The ledger has changed since it was shown; nothing was changed",
            remedy="entrypoint status shows how it is now. Start again.",
        )
    worker.query("\n".join(amendment.statements), patience)
    try:
        worker.query("COMMIT", patience)
    except ConnectionLostError as lost:
        _settle(assignment, lease, transaction_id, amendment, lost)


def _settle(
    assignment: Assignment, lease: Lease, transaction_id: str, amendment: Amendment, lost: ConnectionLostError
) -> None:
    """Return if the change is in after all, though the connection ended during COMMIT; otherwise raise."""
    verdict = settle(
        transaction_id, assignment.target, lease.place, amendment.sign, assignment.role, Deadline(_PATIENCE)
    )
    logs.event(
        logs.WARNING,
        "ledger.commit_in_doubt",
        f"the connection ended during COMMIT ({lost}); the server says: {verdict}",
        verdict=verdict,
    )
    if verdict == "aborted":
        raise lost
    if verdict == "unknown":
        raise MigrationError(
            "The connection ended during COMMIT, and it is unknown whether the ledger was changed",
            remedy="entrypoint status shows how it is now.",
        )
