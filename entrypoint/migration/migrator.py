"""Bring the schema up to date: contend for the lock, apply what is pending, and say how it went."""

from __future__ import annotations

import time
from random import uniform
from typing import NamedTuple, TypeVar

from entrypoint import logs
from entrypoint.database import classify
from entrypoint.database.session import StatementError, literal
from entrypoint.deadline import Deadline
from entrypoint.errors import (
    ConnectionLostError,
    EntrypointError,
    LeaseLostError,
    MigrationFailedError,
    MigrationStoppedError,
    MigrationTimeoutError,
)
from entrypoint.migration import bookkeeping, ledger, transactions
from entrypoint.migration.contention import Contender, held_back
from entrypoint.migration.faults import read_only, refused
from entrypoint.migration.plan import decide
from entrypoint.migration.prepare import prepare
from entrypoint.migration.report import render
from entrypoint.migration.watcher import Activity, Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg.pq.abc import PGresult

    from entrypoint.database.session import Notice, Session
    from entrypoint.migration.contention import Assignment
    from entrypoint.migration.ledger import Place
    from entrypoint.migration.lock import Lease
    from entrypoint.migration.plan import Plan
    from entrypoint.migration.prepare import Prepared

# Beyond PostgreSQL's own time-out, so that its answer, which says more than silence, comes first.
_GRACE = 0.5
# For the statements around a migration.
_PATIENCE = 30.0
_RETRY_FIRST = 0.5
_RETRY_LONGEST = 10.0

_T = TypeVar("_T")

_NOTICE_LEVELS = {"WARNING": logs.WARNING, "DEBUG": logs.DEBUG}


class Applied(NamedTuple):
    """A migration that this process committed."""

    version: int
    file: str
    seconds: float


class Result(NamedTuple):
    """How it went."""

    applied: tuple[Applied, ...]
    waited: bool
    """Whether somebody else did the rest."""
    current: int | None
    """The schema's version afterwards."""


def migrate(assignment: Assignment, plan: Plan, session: Session, place: Place) -> Result:
    """Apply what is pending, or wait while somebody else does.

    `plan`, `session` and `place` come from the first survey. Raises EntrypointError; what was committed before
    stays. All waiting together is bounded by `assignment.lock`, all work by `assignment.apply`.
    """
    prepared = prepare(plan.runnable)
    contender = Contender(assignment, session, place)
    applied: list[Applied] = []
    deadline: Deadline | None = None
    current = plan.current
    try:
        while True:
            lease = contender.acquire()
            if lease is None:
                current = contender.current
                break
            deadline = deadline or Deadline(assignment.apply.timeout)
            logs.event(logs.INFO, "lock.acquired", "acquired the migration lock", token=lease.token)
            try:
                current = _Leader(assignment, lease, prepared, deadline, applied).run()
                break
            except LeaseLostError as error:
                if lease.guard_lost is None:
                    raise  # The lock is still ours and the row is not: an operator wants us to stop.
                logs.failure(error, level=logs.WARNING)
            except ConnectionLostError as error:
                if deadline.passed():
                    raise
                logs.failure(error, level=logs.WARNING)
            finally:
                lease.release()
    finally:
        contender.close()
    return Result(tuple(applied), contender.waited, current)


class _Leader:
    """The holder of the lock, for as long as it holds it."""

    def __init__(
        self,
        assignment: Assignment,
        lease: Lease,
        prepared: Mapping[int, Prepared],
        deadline: Deadline,
        applied: list[Applied],
    ) -> None:
        self._assignment = assignment
        self._lease = lease
        self._worker = lease.worker
        self._prepared = prepared
        self._deadline = deadline
        self._applied = applied

    def run(self) -> int | None:
        """Survey again, now that nobody else can change anything, and apply what is still pending.

        Returns the schema's version afterwards.
        """
        plan = self._survey()
        for file in plan.out_of_order:
            logs.event(
                logs.WARNING,
                "migration.out_of_order",
                f"{file.name} comes after {plan.current:03d} was applied; it runs now all the same",
                version=file.number,
                file=file.name,
            )
        runnable = [self._prepared[file.number] for file in plan.runnable if file.number in self._prepared]
        assignment = self._assignment
        watcher = Watcher(self._lease, assignment.target, assignment.connect_timeout, assignment.apply.ddl_lock_timeout)
        with watcher:
            for index, migration in enumerate(runnable):
                following = runnable[index + 1].file.name if index + 1 < len(runnable) else None
                self._applied.append(self._until_it_is_in(migration, following, watcher))
        if plan.held_back:
            raise held_back(plan.held_back)
        return max((plan.current or 0, *(migration.file.number for migration in runnable))) if plan.applied or runnable else None

    def _survey(self) -> Plan:
        assignment = self._assignment
        try:
            look = ledger.look(
                self._worker, self._lease.place, assignment.role, self._deadline.within(_PATIENCE), contending=False
            )
        except StatementError as error:
            raise refused(error, "the ledger could not be read") from error
        return decide(assignment.directory.files, look.rows, up_to=assignment.up_to)

    def _until_it_is_in(self, migration: Prepared, following: str | None, watcher: Watcher) -> Applied:
        """Apply one migration; again and again if what prevents it may pass, while the time lasts."""
        began = time.monotonic()
        attempt = 1
        while True:
            try:
                _Attempt(self._assignment, self._lease, migration, self._deadline, watcher).run(following)
            except _Refused as refusal:
                self._worker.rollback(Deadline(_GRACE * 2))
                self._judge(migration, refusal, attempt)
            except ConnectionLostError as error:
                if self._deadline.passed():
                    raise self._out_of_time(migration) from error
                raise
            else:
                seconds = time.monotonic() - began
                _tell_applied(migration, seconds, attempt)
                return Applied(migration.file.number, migration.file.name, seconds)
            finally:
                watcher.activity = None
            attempt += 1

    def _judge(self, migration: Prepared, refusal: _Refused, attempt: int) -> None:
        """Return after a pause if the migration is to be tried again; otherwise raise what became of it."""
        error = refusal.error
        if self._lease.revoked:
            raise self._lease.lost()
        if classify.may_pass(error.sqlstate) and not self._deadline.passed():
            pause = min(uniform(0.5, 1.0) * min(_RETRY_FIRST * 2 ** (attempt - 1), _RETRY_LONGEST), self._deadline.remaining())
            logs.event(
                logs.WARNING,
                "migration.retry",
                f"{migration.file.name}: {error.primary}; rolled back, trying again in {pause:.1f} s",
                version=migration.file.number,
                file=migration.file.name,
                sqlstate=error.sqlstate,
                attempt=attempt,
                pause_ms=round(pause * 1000),
            )
            time.sleep(pause)
            return
        if self._deadline.passed():
            raise self._out_of_time(migration)
        if classify.stopped_by_operator(error.sqlstate):
            raise MigrationStoppedError(
                f"{migration.file.name} was stopped: {error.primary}; it was rolled back and is still pending",
                remedy="Start again when it may run.",
                version=migration.file.number,
                file=migration.file.name,
                sqlstate=error.sqlstate,
            )
        if classify.is_read_only(error.sqlstate):
            raise read_only(f"{migration.file.name}: {error.primary}", error.sqlstate)
        failed = refusal.failure()
        self._record(migration, failed)
        raise failed

    def _record(self, migration: Prepared, failed: MigrationFailedError) -> None:
        """Write a `failed` row, under the same fence, and never over one that is completed."""
        deadline = Deadline(_PATIENCE)
        lease = self._lease
        row = _ledger_row(self._assignment, lease.place, migration, status=ledger.FAILED, message=logs.redact(failed.report))
        begin = transactions.begin(
            deadline,
            server_version=self._worker.server_version,
            lock_timeout_ms=round(_PATIENCE * 1000),
            role=self._assignment.role,
        )
        try:
            if not self._worker.query(f"{begin}\n{lease.fence()}", deadline)[-1]:
                raise lease.lost()
            self._worker.query(f"{row}\nCOMMIT", deadline)
        except (StatementError, EntrypointError) as error:
            self._worker.rollback(Deadline(_GRACE))
            logs.event(
                logs.WARNING,
                "ledger.failure_not_recorded",
                f"the failure of {migration.file.name} could not be recorded: {error}",
                file=migration.file.name,
            )

    def _out_of_time(self, migration: Prepared) -> MigrationTimeoutError:
        budget = round(self._assignment.apply.timeout * 1000)
        return MigrationTimeoutError(
            f"The migrations took longer than {budget}ms, and {migration.file.name} was not finished; it was rolled back",
            remedy="Raise MIGRATION_TIMEOUT_MS; or make the migration shorter, for example by working in batches.",
            version=migration.file.number,
            file=migration.file.name,
        )


class _Refused(Exception):  # noqa: N818 - one attempt's result, judged by the leader
    """PostgreSQL refused something of a migration's transaction."""

    def __init__(self, migration: Prepared, error: StatementError, statement_start: int | None, *, in_file: bool) -> None:
        super().__init__(str(error))
        self._migration = migration
        self.error = error
        self._start = statement_start
        self._in_file = in_file

    def failure(self) -> MigrationFailedError:
        """Return the error for the log and the ledger."""
        error, file = self.error, self._migration.file
        if not self._in_file:
            error.position = None  # It counts in our own statements.
        report = render(file.name, self._migration.text, error, self._start)
        offset = error.position if error.position is not None else self._start
        line = None if offset is None else self._migration.text.count("\n", 0, offset) + 1
        return MigrationFailedError(
            f"{file.name}{'' if line is None else f':{line}'}: {error.primary}",
            report=report,
            remedy="It was rolled back and recorded as failed, and is not tried again until its file changes or its row is "
            f"deleted: DELETE FROM schema_migrations WHERE migration_number = {file.number} AND status = 'failed'.",
            version=file.number,
            file=file.name,
            line=line,
            sqlstate=error.sqlstate,
            detail=error.detail,
            hint=error.hint,
            context=error.context,
        )


class _Attempt:
    """One attempt at one migration in one transaction: begin and fence, the file, the ledger row and COMMIT."""

    def __init__(
        self, assignment: Assignment, lease: Lease, migration: Prepared, deadline: Deadline, watcher: Watcher
    ) -> None:
        self._assignment = assignment
        self._lease = lease
        self._worker = lease.worker
        self._migration = migration
        self._deadline = deadline
        self._patience = Deadline(deadline.remaining() + _GRACE)
        self._watcher = watcher

    def run(self, following: str | None) -> None:
        """Commit the migration with its ledger row. Raises _Refused, LeaseLostError or ConnectionLostError."""
        if self._deadline.passed():
            raise ConnectionLostError("no time is left")
        transaction, backend_pid = self._begin()
        ended_in = self._execute(backend_pid)
        if ended_in != transaction:
            self._betrayed()
        self._commit(following)

    def _begin(self) -> tuple[str, int]:
        begin = transactions.begin(
            self._deadline,
            server_version=self._worker.server_version,
            lock_timeout_ms=round(self._assignment.apply.ddl_lock_timeout * 1000),
            role=self._assignment.role,
            statement=self._migration.advice.begin,
        )
        results = self._guarded(lambda: self._worker.query(f"{begin}\n{self._lease.fence()}", self._patience), None)
        if not results[-1]:
            self._worker.rollback(Deadline(_GRACE))
            raise self._lease.lost()
        transaction, backend_pid = results[-1][0]
        return transaction or "", int(backend_pid or 0)

    def _execute(self, backend_pid: int) -> str | None:
        """Send the file as one simple query; return the transaction that the session is in after it."""
        migration = self._migration
        statements = len(migration.advice.statements)
        done = 0
        last: PGresult | None = None

        def on_result(result: PGresult) -> None:
            nonlocal done, last
            done, last = done + 1, result
            self._watcher.activity = activity(done + 1)

        def activity(statement: int) -> Activity:
            return Activity(migration.file.name, backend_pid, time.monotonic(), min(statement, statements), statements)

        def start_of_failed() -> int | None:
            return migration.advice.statements[done].start if done < statements else None

        # One more statement behind the file's own tells whether it has ended our transaction.
        script = f"{migration.advice.body}\n;SELECT pg_catalog.pg_current_xact_id_if_assigned()::text"
        self._watcher.activity = activity(1)
        self._worker.on_notice = self._on_notice
        try:
            self._guarded(lambda: self._worker.script(script, self._patience, on_result), start_of_failed, in_file=True)
        finally:
            self._worker.on_notice = _quiet
        value = last.get_value(0, 0) if last is not None else None
        return None if value is None else value.decode()

    def _commit(self, following: str | None) -> None:
        lease, migration, assignment = self._lease, self._migration, self._assignment
        parts = [
            transactions.RESTORE_SESSION,
            transactions.limits(self._patience, server_version=self._worker.server_version, role=assignment.role),
        ]
        if bookkeeping.mentions(migration.text):
            parts += ["SET LOCAL client_min_messages = warning;", bookkeeping.ddl(lease.place), lease.reassert()]
        parts += [_ledger_row(assignment, lease.place, migration, status=ledger.COMPLETED), lease.progress(following), "COMMIT"]
        self._guarded(lambda: self._worker.query("\n".join(parts), self._patience), None)

    def _guarded(self, act: Callable[[], _T], start: Callable[[], int | None] | None, *, in_file: bool = False) -> _T:
        try:
            return act()
        except StatementError as error:
            raise _Refused(self._migration, error, start() if start else None, in_file=in_file) from error

    def _betrayed(self) -> None:
        """Stop: the file has ended our transaction, and what it did before that is committed without a ledger row."""
        self._worker.abandon()
        raise MigrationFailedError(
            f"{self._migration.file.name} ended the transaction that it ran in; part of it is committed, and it is not "
            "recorded as applied",
            remedy="Remove COMMIT and ROLLBACK from the file, undo by hand what it did, and start again.",
            version=self._migration.file.number,
            file=self._migration.file.name,
        )

    def _on_notice(self, notice: Notice) -> None:
        logs.event(
            _NOTICE_LEVELS.get(notice.severity, logs.INFO),
            "migration.notice",
            f"{self._migration.file.name}: {notice.severity}: {notice.message}",
            version=self._migration.file.number,
            file=self._migration.file.name,
            sqlstate=notice.sqlstate,
            detail=notice.detail,
            hint=notice.hint,
        )


def _ledger_row(
    assignment: Assignment, place: Place, migration: Prepared, *, status: str, message: str | None = None
) -> str:
    """Return the statement that writes a migration's row. What is completed stays completed."""
    table = place.table("schema_migrations")
    elapsed = "pg_catalog.clock_timestamp() - pg_catalog.transaction_timestamp()"
    return (
        f"INSERT INTO {table} AS l (migration_number, filename, applied_at, application_version, execution_time_ms, "
        "status, error_message, checksum) VALUES ("
        f"{migration.file.number}, {literal(migration.file.name)}, pg_catalog.clock_timestamp(), "
        f"{literal(assignment.app_version)}, (extract(epoch FROM {elapsed}) * 1000)::integer, "
        f"{literal(status)}, {literal(message)}, {literal(migration.file.checksum)}) "
        "ON CONFLICT (migration_number) DO UPDATE SET filename = excluded.filename, applied_at = excluded.applied_at, "
        "application_version = excluded.application_version, execution_time_ms = excluded.execution_time_ms, "
        "status = excluded.status, error_message = excluded.error_message, checksum = excluded.checksum "
        f"WHERE l.status IS DISTINCT FROM {literal(ledger.COMPLETED)};"
    )


def _tell_applied(migration: Prepared, seconds: float, attempt: int) -> None:
    logs.event(
        logs.WARNING if migration.empty else logs.INFO,
        "migration.applied",
        f"{migration.file.name} is empty; recorded as applied"
        if migration.empty
        else f"applied {migration.file.name} in {seconds * 1000:.0f} ms",
        version=migration.file.number,
        file=migration.file.name,
        duration_ms=round(seconds * 1000),
        statements=len(migration.advice.statements),
        attempt=attempt,
    )


def _quiet(_notice: Notice) -> None:
    pass
