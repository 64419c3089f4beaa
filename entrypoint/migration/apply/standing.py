"""Whether a migration's transaction still stood when something of it failed.

Nothing is judged, retried or recorded before that is known: a file may have ended our transaction in a way that no
parser sees, and what it committed then stays, whatever the next statement reports.
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

BETRAYAL = "ended the transaction it ran in"
"""What a file has done that commits by a way which no parser sees; so the ledger says it."""

_PAUSE = 0.2


class Trace:
    """What is known of an attempt's transaction while it goes on."""

    def __init__(self, *, session_lasts: bool = False) -> None:
        """Begin with nothing: no transaction is open yet.

        `session_lasts`: what the file has in its session, advisory locks for instance, is kept for the next attempt.
        """
        self.session_lasts = session_lasts
        self.transaction_id: str | None = None
        self.committed_by: str | None = None
        """The command tag that says that the file has committed something, be it our transaction or its own."""

    def opened(self, transaction_id: str) -> None:
        """Remember our transaction, which has just been opened."""
        self.transaction_id, self.committed_by = transaction_id, None

    def closed(self) -> None:
        """Forget our transaction: it has stood to the file's end, and what becomes of it now is our doing."""
        self.transaction_id = None

    def note(self, result: Result) -> None:
        """Look at the result of one of the file's statements."""
        tag = (result.command_status or b"").decode()
        if tag.startswith(("COMMIT", "PREPARE TRANSACTION")):
            self.committed_by = tag


def roll_back(worker: Session, trace: Trace) -> bool | None:
    """Roll back; tell whether something of the file is committed all the same, or None if the server does not say.

    The answer comes in the message that rolls back, from whichever backend a pooler sends that to. The session's
    advisory locks, which no rollback frees, go while the backend is surely ours.
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
            # The server ends the transaction by itself when the connection ends.
            worker.abandon()
    return _verdict(trace, status)


def ask_again(target: Target, trace: Trace, deadline: Deadline) -> bool | None:
    """Ask `roll_back`'s question on new connections, until there is an answer or the deadline has passed.

    It must be certain that the server has not crashed meanwhile, as it gives ids out again after that.
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
        return True  # It may be in a transaction of the file's own, after a ROLLBACK of ours.
    return {"aborted": False, "committed": True}.get(status or "")


def file_ended_transaction(task: Task, refusal: Refused | None = None) -> MigrationFailedError:
    """Return the error for a file that ended our transaction: what it did before that is committed but not recorded.

    `refusal`: what PostgreSQL said about a later statement, if anything.
    """
    file = task.migration.file
    # Whatever transaction is open now is not ours, and what the file set in its session is in, too.
    worker = task.lease.worker
    worker.rollback(Deadline(2 * GRACE))
    try:
        worker.query("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL", Deadline(2 * GRACE))
    except (StatementError, EntrypointError):
        worker.abandon()
    unrecorded = task.still if task.reverse else "it is not recorded as applied"
    what = f"{BETRAYAL}; part of it was committed, and {unrecorded}"
    remedy = "Remove COMMIT and ROLLBACK from the file, undo what it did by hand, and start again."
    if refusal is None:
        return MigrationFailedError(f"{file.name} {what}", remedy=remedy, version=file.number, file=file.name)
    failure = refusal.failure(remedy=remedy)
    failure.message = f"{failure.message}; before that the file {what}"
    failure.report = f"{failure.report}\nBefore that, {file.name} {what}."
    return failure


def strings_read_otherwise(
    task: Task, statement: Statement, place: int, stop: int | None = None
) -> MigrationFailedError | None:
    """Return the error for a file that has had the server read its strings otherwise than they are read here.

    None if it has not, or if that makes no difference behind `statement`, since which it may have done so: whatever has
    a backslash there, dynamic SQL too, may mean something else. `place`: where the server goes on to read; `stop`:
    where it ends.
    """
    worker, advice, file = task.lease.worker, task.migration.advice, task.migration.file
    value = worker.parameter(strings.SETTING)
    # As before the statement: so it is behind a pooler, whose session is put back after each of them.
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
