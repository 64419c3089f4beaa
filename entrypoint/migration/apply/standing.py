"""Finds out whether our transaction was still open when a statement of a migration failed.

Until that is known, nothing is retried or recorded. A file may have ended our transaction in a way that no parser can
see, and what it committed then stays committed, whatever the next statement reports.
"""

from __future__ import annotations

from entrypoint.database.answers import StatementError
from entrypoint.database.login import Failure
from entrypoint.database.quoting import literal
from entrypoint.deadline import Deadline, pause
from entrypoint.errors import ConnectionLostError, EntrypointError
from entrypoint.errors.migration import MigrationFailedError
from entrypoint.migration.apply.attempt import GRACE
from entrypoint.migration.script import strings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database.answers import Result
    from entrypoint.database.session import Session
    from entrypoint.database.target import Target
    from entrypoint.migration.apply.attempt import Refused, Task
    from entrypoint.migration.script.scanner import Statement

ENDED_TRANSACTION = "ended the transaction it ran in"
"""The words in the log and the ledger for a file that committed in a way that no parser can see."""

_PAUSE = 0.2


class Trace:
    """What is known about an attempt's transaction while it runs."""

    def __init__(self, *, session_lasts: bool = False) -> None:
        """Start without an open transaction.

        `session_lasts`: whether what the file has in its session, such as advisory locks, is kept for the next attempt.
        """
        self.session_lasts = session_lasts
        self.transaction_id: str | None = None
        self.committed_by: str | None = None
        """The command tag that shows that the file has committed something, in our transaction or another one."""

    def opened(self, transaction_id: str) -> None:
        """Remember our transaction, which has just been opened."""
        self.transaction_id, self.committed_by = transaction_id, None

    def closed(self) -> None:
        """Forget our transaction: it was still open at the end of the file, and only we can end it now."""
        self.transaction_id = None

    def note(self, result: Result) -> None:
        """Look at the result of one of the file's statements."""
        tag = (result.command_status or b"").decode()
        if tag.startswith(("COMMIT", "PREPARE TRANSACTION")):
            self.committed_by = tag


def roll_back(worker: Session, trace: Trace) -> bool | None:
    """Roll back; tell whether part of the file is committed all the same, or None if the server does not say.

    The rollback and the question are one message, which a pooler may send to any backend. If our transaction is still
    open, so that the backend is certainly ours, this also releases the session's advisory locks, as no rollback does.
    """
    if trace.transaction_id is None:
        worker.rollback(Deadline(2 * GRACE))
        return False
    status = None
    if worker.usable:
        unlocks = worker.in_transaction and not trace.session_lasts
        unlock = "SELECT pg_catalog.pg_advisory_unlock_all(); " if unlocks else ""
        question = f"ROLLBACK; {unlock}SELECT pg_catalog.pg_xact_status({literal(trace.transaction_id)})"
        try:
            status = worker.query(question, Deadline(2 * GRACE))[-1][0][0]
        except (StatementError, EntrypointError):
            # The server rolls the transaction back when the connection ends.
            worker.abandon()
    return _verdict(trace, status)


def ask_again(target: Target, trace: Trace, deadline: Deadline) -> bool | None:
    """Ask the question of `roll_back` on new connections, until there is an answer or the deadline has passed.

    The caller must be certain that the server has not crashed since, because it may then assign the same id again.
    """
    verdict = _verdict(trace, None)
    while verdict is None and not deadline.passed():
        try:
            session = target.connect(deadline.remaining())
            try:
                question = f"SELECT pg_catalog.pg_xact_status({literal(trace.transaction_id)})"
                verdict = _verdict(trace, session.query(question, deadline)[0][0][0])
            finally:
                session.close()
        except (Failure, StatementError, ConnectionLostError):
            pass
        if verdict is None:
            pause(min(_PAUSE, deadline.remaining()))
    return verdict


def _verdict(trace: Trace, status: str | None) -> bool | None:
    if trace.committed_by is not None:
        return True  # Even if ours was rolled back: the file may have committed a transaction that it began.
    return {"aborted": False, "committed": True}.get(status or "")


def file_ended_transaction(task: Task, refusal: Refused | None = None) -> MigrationFailedError:
    """Return the error for a file that ended our transaction: what it did before that is committed but not recorded.

    `refusal`: what PostgreSQL said about a later statement, if anything.
    """
    file = task.migration.file
    # If a transaction is open now, it is not ours. What the file has set in its session is committed, too.
    worker = task.lease.worker
    worker.rollback(Deadline(2 * GRACE))
    try:
        worker.query("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL", Deadline(2 * GRACE))
    except (StatementError, EntrypointError):
        worker.abandon()
    unrecorded = task.what_remains if task.reverse else "it is not recorded as applied"
    what = f"{ENDED_TRANSACTION}; part of it was committed, and {unrecorded}"
    remedy = "Remove COMMIT and ROLLBACK from the file, undo what it did by hand, and start again."
    if refusal is None:
        return MigrationFailedError(f"{file.name} {what}", remedy=remedy, version=file.number, file=file.name)
    failure = refusal.failure(task.lease.place.schema, remedy=remedy)
    failure.message = f"{failure.message}; before that the file {what}"
    failure.report = f"{failure.report}\nBefore that, {file.name} {what}."
    return failure


def strings_read_otherwise(
    task: Task, statement: Statement, place: int, stop: int | None = None
) -> MigrationFailedError | None:
    """Return the error for a file that has made the server read its strings differently from the scanner.

    None if it has not, or if there is no backslash between `statement` and `stop`. `statement`: the first that may have
    changed the setting. After it, any text with a backslash, even dynamic SQL, may mean something else. `place`: where
    the server continues to read; `stop`: where it stops.
    """
    worker, advice, file = task.lease.worker, task.migration.advice, task.migration.file
    value = worker.parameter(strings.SETTING)
    # The value before the statement is also fine: behind a pooler, the session is reset after each one.
    foreseen = (strings.setting(advice.readings, at) for at in (statement.start, place))
    if value in (None, *foreseen) or advice.source.find("\\", statement.end, stop) < 0:
        return None
    worker.rollback(Deadline(2 * GRACE))
    return MigrationFailedError(
        f"{file.name}:{statement.line}: here or further down, {strings.SETTING} is set to {value} in a way that "
        "cannot be tracked, and a backslash follows",
        remedy=f"Write SET {strings.SETTING} = {value}; as a separate statement outside any block, or write strings "
        "with a backslash as E'…'.",
        version=file.number,
        file=file.name,
        line=statement.line,
    )
