"""Makes room for long numbers in the ledger before the first one is written: under the lock, behind the fence."""

from __future__ import annotations

from entrypoint import logs, signals
from entrypoint.database import classify
from entrypoint.database.answers import StatementError
from entrypoint.database.sqlstate import LOCK_NOT_AVAILABLE
from entrypoint.deadline import Deadline, growing, pause
from entrypoint.migration.ledger import widening
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.lock.lease import Lease

# While we wait, everybody who reads the ledger queues behind us, and gives up after twice this time.
_LOCK_TIMEOUT = 1.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
# One attempt gets at least this long, even if the time is nearly up, so that the server can answer.
_LEAST = 1.0


def make_room(assignment: Assignment, lease: Lease, numbers: Iterable[int], deadline: Deadline) -> None:
    """Change the ledger's column to bigint, if one of these numbers needs it and it is not bigint yet.

    The fence also keeps out replicas of the earlier system: while the row is ours, nobody can take it without a token.
    Temporary errors are retried until the deadline. Raises EntrypointError; then nothing was changed.
    """
    if not widening.are_long(numbers):
        return
    attempt = 1
    while True:
        signals.raise_received()
        lease.check_guard()
        try:
            changed = _attempt(assignment, lease, Deadline(max(deadline.remaining(), _LEAST)))
        except StatementError as error:
            lease.worker.rollback(Deadline(1.0))
            _judge(assignment, lease, error, attempt, deadline)
            attempt += 1
        else:
            break
    if changed:
        schema = lease.place.schema
        logs.event(
            logs.INFO,
            "ledger.widened",
            f"changed migration_number to bigint in schema {schema}, so that numbers above {widening.LARGEST_INTEGER}, "
            "such as timestamps, fit",
            schema=schema,
        )


def _attempt(assignment: Assignment, lease: Lease, patience: Deadline) -> bool:
    """Try once; tell whether anything was changed."""
    worker, place = lease.worker, lease.place
    timeout = min(_LOCK_TIMEOUT, assignment.apply.ddl_lock_timeout, patience.remaining() / 2)
    try:
        lease.open(patience, lock_timeout_ms=max(1, round(timeout * 1000)))
        column = widening.read_column(worker.query(widening.question(place), patience)[-1])
        if not column.narrow:
            return False
        widening.refuse_what_is_in_the_way(place, column)
        worker.query(f"{widening.change(place, column)}\nCOMMIT", patience)
    finally:
        worker.rollback(Deadline(1.0))
    return True


def _judge(assignment: Assignment, lease: Lease, error: StatementError, attempt: int, deadline: Deadline) -> None:
    """Return after a pause if it should be tried again; otherwise raise the error that the refusal means."""
    why = error.primary
    if error.sqlstate == LOCK_NOT_AVAILABLE:
        blockers = locked.who_locks(lease.worker, lease.place, readers=True)
        why = locked.describe(blockers)
        if deadline.passed():
            raise locked.locked_too_long(blockers, 0) from error
    if not classify.may_pass(error.sqlstate) or deadline.passed():
        doing, schema = "could not change the column migration_number to bigint", lease.place.schema
        raise refused_on(lease.worker, schema, assignment.role, error, doing, reading=False) from error
    seconds = min(growing(_FIRST_PAUSE, attempt - 1, _LONGEST_PAUSE), deadline.remaining())
    logs.event(
        logs.WARNING,
        "ledger.locked",
        f"could not change the column migration_number to bigint: {why}; trying again in {seconds:.1f} s",
        sqlstate=error.sqlstate,
        attempt=attempt,
        pause_ms=round(seconds * 1000),
    )
    pause(seconds)
