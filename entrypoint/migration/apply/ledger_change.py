"""Changes rows of the ledger without running anything: under the lock, behind the fence, in one transaction."""

from __future__ import annotations

from entrypoint import logs
from entrypoint.database import classify
from entrypoint.database.answers import StatementError
from entrypoint.database.sqlstate import LOCK_NOT_AVAILABLE
from entrypoint.deadline import Deadline, pause
from entrypoint.errors import ConnectionLostError
from entrypoint.errors.migration import MigrationError
from entrypoint.migration.apply.doubt import commit_ended, settle, standby_names
from entrypoint.migration.apply.widen import make_room
from entrypoint.migration.ledger.place import TABLES
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import as_ledger, ledger_query
from entrypoint.migration.lock import locked
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from entrypoint.database.session import Session
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.lock.lease import Lease

    # Takes the session with its open transaction, all rows of the ledger, and the time for an answer.
    Decide = Callable[[Session, tuple[LedgerRow, ...], Deadline], "Change | None"]

_PATIENCE = 30.0
_LOCK_TIMEOUT_MS = 2_000
_PAUSE = 0.5
# One attempt gets at least this long, even if the time is nearly up, so that the server can answer.
_LEAST = 1.0


class Change(NamedTuple):
    """A change to the ledger."""

    statements: Sequence[str]
    proof: str
    """The query that returns a row if the change is committed, for a commit in doubt."""


def change_ledger(
    assignment: Assignment, lease: Lease, decide: Decide, numbers: Sequence[int], deadline: Deadline
) -> None:
    """Make the change that `decide` returns, if any. Retry temporary errors until the deadline.

    `decide` is called with the ledger locked against writes, perhaps several times. `numbers`: the numbers for which
    rows may be added. Raises EntrypointError; then nothing was changed, unless it says that this is unknown.
    """
    make_room(assignment, lease, numbers, deadline)
    while True:
        patience = Deadline(max(deadline.within(_PATIENCE).remaining(), _LEAST))
        try:
            lease.check_guard()
            _attempt(assignment, lease, decide, patience)
        except StatementError as error:
            lease.worker.rollback(Deadline(1.0))
            why = error.primary
            if error.sqlstate == LOCK_NOT_AVAILABLE:
                blockers = locked.who_locks(lease.worker, lease.place, TABLES)
                why = locked.describe(blockers)
                if deadline.passed():
                    raise locked.locked_too_long(blockers, 0) from error
            if not classify.may_pass(error.sqlstate) or deadline.passed():
                doing, schema = "could not change the migration history", lease.place.schema
                raise refused_on(lease.worker, schema, assignment.role, error, doing, reading=False) from error
            logs.event(
                logs.WARNING,
                "ledger.locked",
                f"could not change the migration history: {why}; trying again",
                sqlstate=error.sqlstate,
            )
            pause(min(_PAUSE, deadline.remaining()))
        else:
            return


def _attempt(assignment: Assignment, lease: Lease, decide: Decide, patience: Deadline) -> None:
    worker, place = lease.worker, lease.place
    transaction_id, _ = lease.open(patience, lock_timeout_ms=min(_LOCK_TIMEOUT_MS, patience.milliseconds() // 2 + 1))
    # Nobody, not even a person, may change it between the comparison and the change. Reading is still possible.
    lock = f"LOCK TABLE {place.table('schema_migrations')} IN SHARE ROW EXCLUSIVE MODE"
    rows = as_ledger(worker.query(f"{lock}; {ledger_query(place, later=True)}", patience)[-1])
    change = decide(worker, rows, patience)
    if change is None:
        worker.query("ROLLBACK", patience)
        return
    worker.query("\n".join(change.statements), patience)
    try:
        worker.query("COMMIT", patience)
    except ConnectionLostError as lost:
        _after_lost_commit(assignment, lease, transaction_id, change, lost)


def _after_lost_commit(
    assignment: Assignment, lease: Lease, transaction_id: str, change: Change, lost: ConnectionLostError
) -> None:
    """Return if the change was committed although the connection ended during COMMIT; otherwise raise."""
    verdict = settle(transaction_id, assignment.target, lease.place, change.proof, assignment.role, Deadline(_PATIENCE))
    gave_up = lease.worker.gave_standby_up
    ended, remedy = commit_ended(lost, standby_names(lease.worker) if gave_up else None, gave_up=gave_up)
    logs.event(
        logs.WARNING,
        "ledger.commit_in_doubt",
        f"{ended}; the server says: {verdict}",
        verdict=verdict,
        remedy=remedy.strip() or None,
    )
    if verdict == "aborted":
        raise lost
    if verdict == "unknown":
        raise MigrationError(
            f"{ended[0].upper()}{ended[1:]}, and it is unknown whether the migration history was changed",
            remedy=f"{remedy}Check with entrypoint status.",
        )
