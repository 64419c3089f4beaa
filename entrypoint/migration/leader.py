"""The holder of the lock, for as long as it holds it: survey again, apply what is pending, judge what fails."""

from __future__ import annotations

import time
from random import uniform
from typing import NamedTuple

from entrypoint import logs
from entrypoint.database import classify
from entrypoint.database.answers import StatementError
from entrypoint.deadline import Deadline
from entrypoint.errors import (
    ConnectionLostError,
    EntrypointError,
    MigrationError,
    MigrationFailedError,
    MigrationStoppedError,
    MigrationTimeoutError,
)
from entrypoint.migration import ledger, outside, recording, transactional, transactions
from entrypoint.migration.attempt import GRACE, Refused, Task
from entrypoint.migration.board import Activity
from entrypoint.migration.contention import held_back
from entrypoint.migration.doubt import InDoubt, server_restarted, settle
from entrypoint.migration.faults import read_only, refused
from entrypoint.migration.plan import decide
from entrypoint.migration.prepare import prepare
from entrypoint.migration.watcher import Watcher, blocker_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.migration.contention import Assignment
    from entrypoint.migration.lock import Lease
    from entrypoint.migration.plan import Plan
    from entrypoint.migration.prepare import Prepared
    from entrypoint.migration.watcher import Watched

# For the statements around a migration.
_PATIENCE = 30.0
# To find out whether the server has restarted.
_RECONNECT_PATIENCE = 3.0
# How much later than the worker the guard may notice that its session has ended, too.
_NOTICE = 0.3
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_QUERY_CANCELED = "57014"


class Applied(NamedTuple):
    """A migration that this process committed."""

    version: int
    file: str
    seconds: float


class Leader:
    """Applies what is pending under one lease."""

    def __init__(self, assignment: Assignment, lease: Lease, prepared: dict[int, Prepared], deadline: Deadline) -> None:
        """Take the `prepared` migrations by number, and the `deadline` for all of them together."""
        self._assignment = assignment
        self._lease = lease
        self._worker = lease.worker
        self._prepared = prepared
        self._deadline = deadline
        self._blocked = ""
        """Who was in the way of the file's last attempt, in words."""

    def run(self, applied: list[Applied]) -> int | None:
        """Apply all that is still pending, now that nobody else can change that; append each to `applied`.

        Returns the schema's version afterwards. Raises EntrypointError; what was committed before stays.
        """
        plan = self._survey()
        self._tell_out_of_order(plan)
        # Somebody may have deleted a failed row since the first survey.
        prepared = self._prepared | prepare(file for file in plan.runnable if file.number not in self._prepared)
        runnable = [prepared[file.number] for file in plan.runnable]
        assignment = self._assignment
        current = plan.current
        patience = assignment.apply.ddl_lock_timeout
        assignment.board.pending = assignment.board.done + len(runnable)
        with Watcher(self._lease, assignment.target, assignment.board, assignment.connect_timeout, patience) as watcher:
            for index, migration in enumerate(runnable):
                following = runnable[index + 1].file.name if index + 1 < len(runnable) else None
                lock_patience = None if _sets(migration, "lock_timeout") else patience
                task = Task(assignment, self._lease, migration, following, self._deadline, watcher, lock_patience)
                applied.append(self._until_it_is_in(task))
                current = max(current or 0, migration.file.number)
        if plan.held_back:
            raise held_back(plan.held_back)
        return current

    def _survey(self) -> Plan:
        assignment = self._assignment
        patience = self._deadline.within(_PATIENCE)
        try:
            look = ledger.look(self._worker, self._lease.place, assignment.role, patience, contending=False)
        except StatementError as error:
            raise refused(error, "the ledger could not be read") from error
        return decide(assignment.directory.files, look.rows, up_to=assignment.up_to)

    def _until_it_is_in(self, task: Task) -> Applied:
        """Apply one migration; again and again if what prevents it may pass, while the time lasts."""
        began = time.monotonic()
        attempt = 1
        self._blocked = ""
        while True:
            if self._deadline.passed():
                raise self._out_of_time(task)
            try:
                self._lease.check_guard()
                if task.migration.advice.transactional:
                    transactional.apply(task)
                else:
                    outside.apply(task, again=attempt > 1)
            except InDoubt as doubt:
                self._settle(task, doubt)
                return self._tell_applied(task, began, attempt)
            except Refused as refusal:
                watched = task.watcher.stand_down()
                self._worker.rollback(Deadline(2 * GRACE))
                self._judge(task, refusal, attempt, watched)
            except MigrationFailedError as failure:
                self._record_failure(task, failure)
                raise
            except ConnectionLostError as lost:
                raise self._explain(task, lost) from lost
            else:
                return self._tell_applied(task, began, attempt)
            finally:
                task.watcher.stand_down()
            attempt += 1

    def _judge(self, task: Task, refusal: Refused, attempt: int, watched: Watched) -> None:
        """Return after a pause if the migration is to be tried again; otherwise raise what became of it."""
        error, file = refusal.error, task.migration.file
        if self._lease.revoked:
            raise self._lease.lost()
        if self._deadline.passed():
            raise self._out_of_time(task)
        if watched.gave_up is not None and error.sqlstate == _QUERY_CANCELED:
            # The watcher's own cancel, for what PostgreSQL has no time-out for.
            why = (
                f"waited for locks for {watched.gave_up.seconds:.1f} s in all, longer than the "
                f"{watched.gave_up.allowed * 1000:.0f} ms of MIGRATION_DDL_LOCK_TIMEOUT_MS"
            )
            waited_ms = round(watched.gave_up.seconds * 1000)
            self._pause(task, why, ledger.LOCK_NOT_AVAILABLE, attempt, watched, lock_wait_ms=waited_ms)
            return
        if classify.may_pass(error.sqlstate):
            self._pause(task, error.primary, error.sqlstate, attempt, watched)
            return
        if classify.stopped_by_operator(error.sqlstate) and not _sets(task.migration, "statement_timeout"):
            raise self._stopped(task, error.primary, error.sqlstate)
        if classify.is_read_only(error.sqlstate):
            raise read_only(f"{file.name}: {error.primary}", error.sqlstate)
        if task.migration.advice.transactional:
            failure = refusal.failure()
        else:
            failure = refusal.failure(
                undone="What came before that statement is committed: take it out of the file, or make it repeatable. "
                "The failure was recorded"
            )
        self._record_failure(task, failure)
        raise failure

    def _settle(self, task: Task, doubt: InDoubt) -> None:
        """Return if a migration is in after all, though the connection ended during COMMIT; otherwise raise."""
        file = task.migration.file
        verdict = settle(
            doubt.transaction_id,
            self._assignment.target,
            self._lease.place,
            file.number,
            self._deadline.within(_PATIENCE),
        )
        logs.event(
            logs.WARNING,
            "migration.commit_in_doubt",
            f"{file.name}: the connection ended during COMMIT ({doubt}); the server says: {verdict}",
            version=file.number,
            file=file.name,
            verdict=verdict,
        )
        if verdict == "unknown":
            raise MigrationError(
                f"{file.name}: the connection ended during COMMIT, and it is unknown whether it was committed",
                remedy="The next start finds out: the ledger's row is committed with the migration or not at all.",
                version=file.number,
                file=file.name,
            )
        if verdict == "aborted":
            raise self._explain(task, doubt.lost)

    def _explain(self, task: Task, lost: ConnectionLostError) -> EntrypointError:
        """Return what a lost connection means for this run: it goes on with a new one, or it ends here."""
        if self._deadline.passed():
            return self._out_of_time(task)
        if lost.sqlstate is None or not classify.stopped_by_operator(lost.sqlstate):
            return lost
        if self._lease.guard_was_lost(_NOTICE):
            return self._lease.lost()
        if server_restarted(self._lease.place, self._assignment.target, _RECONNECT_PATIENCE):
            return lost
        return self._stopped(task, lost.message, lost.sqlstate)

    def _stopped(self, task: Task, why: str, sqlstate: str) -> MigrationStoppedError:
        file = task.migration.file
        return MigrationStoppedError(
            f"{file.name} was stopped by an operator: {why}; what was not committed is rolled back, and it is still "
            "pending",
            remedy="Start again when it may run.",
            version=file.number,
            file=file.name,
            sqlstate=sqlstate,
        )

    def _pause(
        self, task: Task, why: str, sqlstate: str, attempt: int, watched: Watched, *, lock_wait_ms: int | None = None
    ) -> None:
        """Wait before the next attempt, longer each time, and never in step with others."""
        longest = min(_FIRST_PAUSE * 2.0 ** (attempt - 1), _LONGEST_PAUSE)
        pause = min(uniform(longest / 2, longest), self._deadline.remaining())
        file = task.migration.file
        blocker = watched.blockers[0] if watched.blockers and sqlstate == ledger.LOCK_NOT_AVAILABLE else None
        behind = f", behind {blocker.short}" if blocker else ""
        self._blocked = f"{file.name} waited behind {blocker.words()}" if blocker else ""
        logs.event(
            logs.WARNING,
            "migration.retry",
            f"{file.name}: {why}{behind}; trying again in {pause:.1f} s",
            version=file.number,
            file=file.name,
            sqlstate=sqlstate,
            attempt=attempt,
            pause_ms=round(pause * 1000),
            lock_wait_ms=lock_wait_ms,
            **(blocker_fields(blocker) if blocker else {}),
        )
        now = time.monotonic()
        retry = f"attempt {attempt} ended ({why}{behind}), and the next one begins in {pause:.1f} s"
        count = len(task.migration.advice.statements)
        self._assignment.board.activity = Activity(file.name, 0, now, now, 1, count, None, retry=retry)
        time.sleep(pause)
        self._assignment.board.activity = None

    def _record_failure(self, task: Task, failure: MigrationFailedError) -> None:
        """Write a `failed` row, under the same fence, and never over one that is completed.

        Where that does not work, say so in the failure's remedy: then the next start tries again.
        """
        lease, file = self._lease, task.migration.file
        deadline = Deadline(_PATIENCE)
        begin = transactions.begin(
            deadline,
            server_version=self._worker.server_version,
            lock_timeout_ms=round(_PATIENCE * 1000),
            role=self._assignment.role,
        )
        message = logs.redact(failure.report or failure.message)
        row = recording.row(
            lease.place, file, self._assignment.app_version, status=ledger.FAILED, message=message, milliseconds=0
        )
        try:
            if not self._worker.query(f"{begin}\n{lease.fence()}", deadline)[-1]:
                raise lease.lost()
            self._worker.query(f"{row}\nCOMMIT", deadline)
        except (StatementError, EntrypointError) as error:
            self._worker.rollback(Deadline(GRACE))
            failure.remedy = "Its failure could not be recorded, so the next start tries it again."
            logs.event(
                logs.WARNING,
                "ledger.failure_not_recorded",
                f"the failure of {file.name} could not be recorded: {error}",
                file=file.name,
            )

    def _out_of_time(self, task: Task) -> MigrationTimeoutError:
        budget = round(self._assignment.apply.timeout * 1000)
        file = task.migration.file
        return MigrationTimeoutError(
            f"The migrations took longer than {budget}ms; {file.name} was not finished, and what was not "
            f"committed is rolled back{f'. {self._blocked}' if self._blocked else ''}",
            remedy="Raise MIGRATION_TIMEOUT_MS; or make the migration shorter, for example by working in batches.",
            version=file.number,
            file=file.name,
        )

    def _tell_out_of_order(self, plan: Plan) -> None:
        for file in plan.out_of_order:
            logs.event(
                logs.WARNING,
                "migration.out_of_order",
                f"{file.name} comes after {plan.current:03d} was applied; it runs now all the same",
                version=file.number,
                file=file.name,
            )

    def _tell_applied(self, task: Task, began: float, attempt: int) -> Applied:
        file, empty = task.migration.file, task.migration.empty
        seconds = time.monotonic() - began
        self._assignment.board.done += 1
        milliseconds = round(seconds * 1000)
        logs.event(
            logs.WARNING if empty else logs.INFO,
            "migration.applied",
            f"{file.name} is empty; recorded as applied" if empty else f"applied {file.name} in {milliseconds} ms",
            version=file.number,
            file=file.name,
            duration_ms=milliseconds,
            statements=len(task.migration.advice.statements),
            attempt=attempt,
        )
        return Applied(file.number, file.name, seconds)


def _sets(migration: Prepared, setting: str) -> bool:
    """Tell whether the file may have its own idea of a time-out: PostgreSQL's answer is the same, whoever set it."""
    return setting in migration.text.lower()
