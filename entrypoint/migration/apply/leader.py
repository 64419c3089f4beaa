"""What the holder of the lock does: survey again, apply what is pending, decide what a failure means."""

from __future__ import annotations

import contextlib
import math
import time

from entrypoint import logs, signals
from entrypoint.database import classify, session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.login import Failure
from entrypoint.database.sqlstate import (
    CONNECTION_EXCEPTIONS,
    DEPENDENT_OBJECTS_STILL_EXIST,
    FEATURE_NOT_SUPPORTED,
    INVALID_FUNCTION_DEFINITION,
    INVALID_SQL_STATEMENT_NAME,
    INVALID_TABLE_DEFINITION,
    LOCK_NOT_AVAILABLE,
    QUERY_CANCELED,
)
from entrypoint.deadline import Deadline, growing, pause
from entrypoint.errors import ConnectionLostError, EntrypointError
from entrypoint.errors.migration import (
    MigrationError,
    MigrationFailedError,
    MigrationFilesError,
    MigrationPreventedError,
    MigrationStoppedError,
    MigrationTimeoutError,
)
from entrypoint.errors.operator import LedgerChangedError
from entrypoint.migration.apply import outside, standing, transactional
from entrypoint.migration.apply.attempt import AS_DEFERRED, DEFERRED_TRIGGERS, GRACE, ONLY_APART, Refused, Task
from entrypoint.migration.apply.doubt import (
    STANDBY_REMEDY,
    InDoubt,
    commit_ended,
    server_restarted,
    settle,
    standby_names,
    waited_for_standby,
)
from entrypoint.migration.apply.standing import Trace, file_ended_transaction
from entrypoint.migration.apply.watcher import Watcher
from entrypoint.migration.apply.widen import make_room
from entrypoint.migration.ledger import reading, words, writing
from entrypoint.migration.ledger.place import TABLES
from entrypoint.migration.ledger.refusal import lacking, refused_on, takes_no_writes
from entrypoint.migration.ledger.rollout import what_is_initial
from entrypoint.migration.ledger.rows import FAILED, RUNNING
from entrypoint.migration.ledger.widening import are_long
from entrypoint.migration.lock import locked
from entrypoint.migration.losses import Spot, too_many
from entrypoint.migration.observe.blockers import blocker_fields
from entrypoint.migration.observe.board import Activity
from entrypoint.migration.script.directives import spell
from entrypoint.migration.script.prepare import prepare
from entrypoint.migration.script.rollout import rollout_of
from entrypoint.migration.script.text import names
from entrypoint.migration.script.units import stopped_at
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from entrypoint.clocks import Clocks
    from entrypoint.database.classify import Trouble
    from entrypoint.database.session import Session
    from entrypoint.migration.apply.adopting import Adopter
    from entrypoint.migration.apply.backup_first import BackupFirst
    from entrypoint.migration.apply.watcher import Watched
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.plan import Plan
    from entrypoint.migration.ledger.rows import LedgerRow
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.migration.observe.blockers import Blocker
    from entrypoint.migration.script.prepare import Prepared

# Seconds for the statements around a migration.
_PATIENCE = 30.0
# Seconds to find out whether the server has restarted.
_RECONNECT_PATIENCE = 3.0
# How many seconds after the worker's session the guard's may still seem alive.
_NOTICE = 0.3
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_ON_THE_LEDGER = "a lock on the tables of the migration history"
_LOOK_AT_IT = "see \\d schema_migrations in psql, drop it, and start again."
_NO_LONGER_RECORDED = "applied migrations were no longer recorded as completed"
_RECORD_AGAIN = "The next start runs again what is not recorded. To record it without running it: entrypoint baseline."
# Errors if an object, such as one from a repeatable file, must be dropped first.
TO_BE_DROPPED = (
    INVALID_TABLE_DEFINITION,
    INVALID_FUNCTION_DEFINITION,
    DEPENDENT_OBJECTS_STILL_EXIST,
    FEATURE_NOT_SUPPORTED,
)
BEGAN_AS_UNITS = "an earlier start committed some of them"
_OWN_DOING = (
    "The server accepts writes: the file made its transaction or session read-only, or it writes to another server "
    "that does not accept writes."
)


class _NeedsUnitsError(Exception):
    """A file can only run unit by unit, as psql runs it, and none of it is committed."""

    def __init__(self, refusal: Refused) -> None:
        """Take PostgreSQL's refusal."""
        super().__init__(str(refusal))
        self.refusal = refusal


class Applied(NamedTuple):
    """A migration that this process applied or reversed."""

    version: int
    file: str
    seconds: float


class Leader:
    """Applies what is pending under one lease."""

    def __init__(
        self,
        assignment: Assignment,
        lease: Lease,
        prepared: dict[int, Prepared],
        clocks: Clocks,
        backup_first: BackupFirst | None,
        adopter: Adopter | None = None,
    ) -> None:
        """Take the `prepared` migrations by number, and the `clocks` that limit them.

        `backup_first` takes a backup before the first migration. `adopter` records what another tool has applied.
        """
        self._assignment = assignment
        self._lease = lease
        self._worker = lease.worker
        self._prepared = prepared
        self._clocks = clocks
        self._backup_first = backup_first
        self._adopter = adopter
        self._blocker: Blocker | None = None
        """The session that blocked the file's last attempt."""
        self._lock = ""
        """The lock that it waited for, such as `ShareLock on orders`."""
        self._standby: str | None = None
        """`synchronous_standby_names`, if a commit waited for one of them until the time was up."""
        self._why = ""
        """How that attempt ended, in words."""
        self._passing = ""
        """The SQLSTATE with which it ended, if that is a temporary error."""
        self._kept: frozenset[int] = frozenset()
        """The numbers of our files that the ledger records as applied."""
        self._unfinished: dict[int, LedgerRow] = {}
        """The rows of migrations that failed, or that ran unit by unit and were interrupted."""
        self._initial: int | None = None
        """What the first row must record about the initial migrations of a new database."""
        self._ends_initial = False
        """Whether the last migration completes the initial ones."""
        self._has_room = False
        """Whether the ledger is known to accept long numbers."""

    def run(self, applied: list[Applied]) -> int | None:
        """Apply everything that is still pending, now that we hold the lock; append each migration to `applied`.

        Returns the schema's version afterwards. Raises EntrypointError; what was committed before stays.
        """
        plan, runnable = self._what_to_run()
        self._refuse_again(runnable, applied)
        ours = {file.number for file in self._assignment.directory.files}
        self._kept = frozenset(row.number for row in plan.applied if row.number in ours)
        if runnable and self._backup_first is not None:
            self._assignment.board.back_up()
            self._backup_first.take(self._lease, plan.current, runnable[0].file.name, self._clocks.running)
        self._tell_declared(runnable)
        self._tell_after(plan, runnable)
        self._find_initial(plan)
        self._assignment.board.know(version=plan.current, latest=plan.latest, pending=len(plan.pending))
        self.carry_out(runnable, applied)
        if obstacle := words.obstacle(plan):
            raise obstacle
        numbers = [migration.file.number for migration in runnable]
        return max(numbers if plan.current is None else [plan.current, *numbers], default=None)

    @property
    def kept(self) -> frozenset[int]:
        """The numbers of our files that the ledger records as applied, including those that this run has applied."""
        return self._kept

    def carry_out(
        self,
        migrations: Sequence[Prepared],
        done: list[Applied],
        *,
        reverse: bool = False,
        kept: frozenset[int] = frozenset(),
    ) -> None:
        """Apply `migrations` in this order, or run them as down migrations; append each to `done`.

        `kept`: the numbers whose rows must exist until they are reversed.
        """
        self._kept |= kept
        assignment = self._assignment
        assignment.board.pending = assignment.board.done + len(migrations)
        declared = {one.file.number: one.advice.directives.timeout for one in migrations}
        if own := {number: seconds for number, seconds in declared.items() if seconds is not None}:
            self._lease.extend(self._clocks.work_left(own))
        with self._watcher(migrations) as watcher:
            for index, migration in enumerate(migrations):
                assignment.board.begin(migration.file.name)
                upcoming = migrations[index + 1] if index + 1 < len(migrations) else None
                following = None if upcoming is None else upcoming.file.name
                if not reverse:
                    self._make_room(migration.file.number)
                deadline = self._clocks.turn_to(migration.file.number, migration.advice.directives.timeout)
                patience = self._lock_patience(migration)
                _tell_idle(migration)
                if reverse:
                    self._kept -= {migration.file.number}
                task = Task(
                    assignment,
                    self._lease,
                    migration,
                    following,
                    deadline,
                    watcher,
                    patience,
                    reverse,
                    self._kept,
                    self._initial if index == 0 else None,
                    self._ends_initial and following is None,
                    upcoming=upcoming if upcoming is not None and self._opens_behind(migration, upcoming) else None,
                )
                done.append(self._apply_with_retries(task))
                if not reverse:
                    self._kept |= {migration.file.number}

    def _opens_behind(self, migration: Prepared, upcoming: Prepared) -> bool:
        """Tell whether the upcoming migration's transaction can be opened in the message that commits the one before.

        For that, nothing may have to be asked between the two, and the same clock must apply to both.
        """
        row = self._unfinished.get(upcoming.file.number)
        return (
            upcoming.advice.transactional
            and not upcoming.advice.unless_deferred
            and row is None
            and migration.advice.directives.timeout is None
            and upcoming.advice.directives.timeout is None
            and (self._has_room or not are_long([upcoming.file.number]))
        )

    def _find_initial(self, plan: Plan) -> None:
        """Find out what the rows must record so that a later start treats a new database as this one does."""
        late = frozenset(file.number for file in plan.pending if rollout_of(file).after)
        self._initial, self._ends_initial = what_is_initial(plan, late)

    def _make_room(self, number: int) -> None:
        """Make sure that the ledger accepts this number. The database is asked only about the first long one."""
        if not self._has_room and are_long([number]):
            make_room(self._assignment, self._lease, [number], self._clocks.turn_to())
            self._has_room = True

    def _watcher(self, migrations: Iterable[Prepared]) -> Watcher:
        assignment = self._assignment
        # For batches, the blocker is only looked up after repeated failures.
        declared = [(not one.advice.batched and one.advice.directives.lock_timeout) or math.inf for one in migrations]
        shortest = min([assignment.apply.ddl_lock_timeout, *declared])
        return Watcher(self._lease, assignment.target, assignment.board, assignment.connect_timeout, shortest)

    def _lock_patience(self, migration: Prepared) -> float | None:
        """Return how long one transaction may wait for locks in total; None if the file itself sets a lock_timeout."""
        if _sets(migration, "lock_timeout"):
            return None
        return migration.advice.directives.lock_patience or self._assignment.apply.ddl_lock_timeout

    def _what_to_run(self) -> tuple[Plan, list[Prepared]]:
        """Survey again, now that we hold the lock; return the plan, and the migrations to run, in order."""
        plan = self._survey(self._clocks.turn_to())
        if self._adopter is not None:
            plan = self._adopt(self._adopter, plan)
        if plan.below:
            raise words.below_floor(plan, self._lease.place.schema)
        self._assignment.differences.tell(plan)
        if self._assignment.refuse_out_of_order and plan.out_of_order:
            raise words.out_of_order(plan)
        self._tell_out_of_order(plan)
        self._unfinished = {row.number: row for row in (*plan.failed, *plan.running)}
        # Somebody may have deleted a failed row since the first survey.
        others = (file for file in plan.runnable if file.number not in self._prepared)
        prepared = self._prepared | prepare(others, escapes=self._lease.worker.escapes, in_doubt_only=True)
        if self._adopter is not None:
            runnable = (prepared[file.number] for file in plan.runnable)
            outside.refuse_behind_pooler(runnable, self._worker, self._lease.place)
        return plan, [prepared[file.number] for file in plan.runnable]

    def _adopt(self, adopter: Adopter, plan: Plan) -> Plan:
        """Record what another tool has applied; return the plan after that."""
        return (
            self._survey(self._clocks.turn_to()) if adopter.record(self._lease, plan, self._clocks.turn_to()) else plan
        )

    def _refuse_again(self, runnable: Iterable[Prepared], applied: Iterable[Applied]) -> None:
        """Raise LedgerChangedError if something is pending that this same process has already applied."""
        done = {one.version for one in applied}
        again = [migration.file.name for migration in runnable if migration.file.number in done]
        if again:
            raise LedgerChangedError(
                f"{', '.join(again)}: applied by this start, but its row in schema_migrations is gone; it was not run "
                "again",
                remedy="Find out what removed rows from schema_migrations, for example a migration that truncates "
                "all tables. To record what is applied: entrypoint baseline.",
            )

    def _survey(self, deadline: Deadline) -> Plan:
        assignment = self._assignment
        patience = deadline.within(_PATIENCE)
        try:
            look = reading.look(self._worker, self._lease.place, assignment.role, patience, contending=False)
        except StatementError as error:
            raise self._refused(error, "could not read the migration history") from error
        return assignment.plan(look.rows)

    def _refused(self, error: StatementError, doing: str) -> EntrypointError:
        schema, role = self._lease.place.schema, self._assignment.role
        return refused_on(self._worker, schema, role, error, doing, reading=False)

    def _apply_with_retries(self, task: Task) -> Applied:
        """Apply one migration. Retry temporary errors until the time is up."""
        if not task.reverse and (why := self._why_as_units(task)):
            task = self._as_units(task, why)
        if task.migration.advice.transactional:
            trace = Trace()
            try:
                return self._attempt_until(task, lambda: transactional.apply(task, trace), trace)
            except _NeedsUnitsError as needs:
                file, error = task.migration.file, needs.refusal.error
                logs.event(
                    logs.WARNING,
                    "migration.as_units",
                    f"{file.name}: {error.primary} ({error.sqlstate}); nothing in it was committed, so it runs again "
                    "with its own BEGIN and COMMIT, unit by unit, as psql would run it",
                    version=file.number,
                    file=file.name,
                    sqlstate=error.sqlstate,
                )
                task = self._as_units(task, f"PostgreSQL refused it as one transaction, {error.sqlstate}")
        if task.migration.advice.batched:
            from entrypoint.migration.apply.batches import BatchRunner  # only for such a file

            batches = BatchRunner(task, lambda waited: self._out_of_time(task, waited), self._remember)
            try:
                return self._attempt_until(task, batches.attempt, batches.trace)
            finally:
                batches.end()
        steps = outside.UnitRunner(task)
        try:
            return self._attempt_until(task, steps.attempt, steps.trace)
        finally:
            steps.end()

    def _why_as_units(self, task: Task) -> str:
        """Return why a file that could be one transaction must run as units; empty if it need not.

        A file that began as units continues as units.
        """
        if not task.migration.advice.transactional:
            return ""
        if self._began_as_units(task.migration):
            return BEGAN_AS_UNITS
        return AS_DEFERRED if task.migration.advice.unless_deferred and self._has_deferred_triggers(task) else ""

    def _began_as_units(self, migration: Prepared) -> bool:
        """Tell whether an earlier start has run part of the file unit by unit."""
        row = self._unfinished.get(migration.file.number)
        return row is not None and (row.status == RUNNING or bool(stopped_at(row.error_message or "")))

    def _has_deferred_triggers(self, task: Task) -> bool:
        ask = f"BEGIN READ ONLY; {session_state.ours(self._assignment.role)} {DEFERRED_TRIGGERS}; COMMIT"
        try:
            return bool(self._worker.query(ask, task.patience)[-2])
        except StatementError as error:
            raise self._refused(error, "could not read the database's triggers") from error

    def _as_units(self, task: Task, why: str) -> Task:
        """Return the same task with a file that runs unit by unit. Raises EntrypointError if it cannot."""
        migration = task.migration.as_units(why)
        if migration.advice.faults:
            fault, file = migration.advice.faults[0], migration.file
            raise MigrationFilesError(
                f"{file.name} must run as units ({why}), but cannot: line {fault.line}: {fault.message}",
                faults=(f"{file.name}:{fault.line}: {fault.message}",),
                remedy="Change that line. Or check which units took effect, remove them from the file, and delete "
                "its row.",
            )
        outside.refuse_behind_pooler([migration], self._worker, self._lease.place)
        return task._replace(migration=migration)

    def _attempt_until(self, task: Task, attempt_once: Callable[[], None], trace: Trace) -> Applied:
        began = time.monotonic()
        attempt = 1
        self._blocker, self._why, self._passing = None, "", ""
        if not task.deadline.passed():
            self._standby, self._worker.gave_standby_up = None, False
        while True:
            signals.raise_received()
            if task.deadline.passed():
                raise self._out_of_time(task)
            try:
                self._lease.check_guard()
                attempt_once()
            except InDoubt as doubt:
                self._remember(task.watcher.stand_down())
                self._after_lost_commit(task, doubt)
                return self._tell_done(task, began, attempt)
            except Refused as refusal:
                watched = task.watcher.stand_down()
                certain = self._roll_back(task, trace, refusal)
                if certain and _needs_units(task, refusal):
                    raise _NeedsUnitsError(refusal) from refusal
                if not _lost_prepared_statements(refusal):
                    self._judge(task, refusal, attempt, watched)
            except MigrationFailedError as failure:
                self._record_failure(task, failure)
                raise
            except ConnectionLostError as lost:
                spot = spot_of(task)
                self._remember(task.watcher.stand_down())
                self._raise_if_committed(task, trace)
                raise self._explain(task, lost, spot) from lost
            else:
                return self._tell_done(task, began, attempt)
            finally:
                task.watcher.stand_down()
            attempt += 1

    def _roll_back(self, task: Task, trace: Trace, refusal: Refused) -> bool:
        """Roll back what PostgreSQL refused; tell whether the server confirms that nothing is committed.

        Raises MigrationFailedError if the file had committed something before.
        """
        committed = standing.roll_back(self._worker, trace)
        if committed is None:
            self._raise_if_committed(task, trace)
        if committed:
            failure = self._file_ended_transaction(task, refusal)
            self._record_failure(task, failure)
            raise failure from refusal
        return committed is False

    def _raise_if_committed(self, task: Task, trace: Trace) -> None:
        """Raise MigrationFailedError if the file has committed something by itself, even if the connection has ended.

        The server is only asked again while the guard's session is alive. That shows that the server has not crashed:
        after a crash, our transaction id could belong to another transaction. Otherwise only the ledger counts, as
        after a failover.
        """
        committed = None
        if trace.transaction_id is not None and self._worker.usable:
            committed = standing.roll_back(self._worker, trace)
        if committed is None and trace.transaction_id is not None and not self._lease.guard_was_lost(_NOTICE):
            committed = standing.ask_again(self._assignment.target, trace, task.deadline.within(_RECONNECT_PATIENCE))
        if not committed:
            return
        failure = self._file_ended_transaction(task)
        spare: Session | None = None
        if not self._worker.usable:
            with contextlib.suppress(Failure):
                spare = self._assignment.target.connect(_RECONNECT_PATIENCE)
                self._worker = self._lease.worker = spare
        try:
            self._record_failure(task, failure)
        finally:
            if spare is not None:
                spare.close()
        raise failure

    def _file_ended_transaction(self, task: Task, refusal: Refused | None = None) -> MigrationFailedError:
        """Return the error for a file that has ended our transaction."""
        return file_ended_transaction(task, refusal)

    def _judge(self, task: Task, refusal: Refused, attempt: int, watched: Watched) -> None:
        """Return after a pause if the migration should be tried again; otherwise raise the error that it means."""
        error, file = refusal.error, task.migration.file
        if self._lease.revoked:
            raise self._lease.lost()
        if task.deadline.passed():
            self._remember(watched, error.sqlstate)
            self._passing = error.sqlstate if classify.may_pass(error.sqlstate) else ""
            self._why = f"{file.name}: {error.primary}" if self._passing else self._why
            if self._blocker is None:
                self._blocker, self._lock = self._who_locks_the_ledger(refusal), _ON_THE_LEDGER
            raise self._out_of_time(task)
        if watched.gave_up is not None and error.sqlstate == QUERY_CANCELED:
            # The watcher canceled it for all its waits together, for which PostgreSQL has no timeout.
            why = (
                f"waited {watched.gave_up.seconds:.1f} s for locks in total, longer than the "
                f"{watched.gave_up.allowed * 1000:.0f} ms of {_lock_timeout_of(task.migration)}"
            )
            waited_ms = round(watched.gave_up.seconds * 1000)
            self._pause(task, why, LOCK_NOT_AVAILABLE, attempt, watched, lock_wait_ms=waited_ms)
            return
        # We got an answer, so our connection works: 08… is about a connection that the statement itself opened.
        if classify.may_pass(error.sqlstate) and not error.sqlstate.startswith(CONNECTION_EXCEPTIONS):
            self._pause(task, error.primary, error.sqlstate, attempt, watched, refusal=refusal)
            return
        if classify.stopped_by_operator(error.sqlstate) and not _sets(task.migration, "statement_timeout"):
            raise self._stopped(task, error.primary, error.sqlstate)
        place = self._lease.place
        own_doing = classify.is_read_only(error.sqlstate)
        if own_doing:
            pooled = self._worker.login_pid != place.backend_pid
            message = f"{file.name}: {error.primary}"
            if fault := takes_no_writes(self._worker, message, error.sqlstate, pooled=pooled):
                raise fault
        if writing.is_not_written(error):
            raise self._not_written(task)
        lacks = lacking(self._worker, place.schema, self._assignment.role, error) if refusal.of_our_own else None
        if trouble := classify.trouble(error.sqlstate) or lacks:
            raise prevented(self._plain_failure(task, refusal), trouble, task)
        failure = self._removed(task) if writing.are_gone(error) else self._failure(task, refusal)
        if own_doing:
            failure.remedy = f"{_OWN_DOING} {failure.remedy}"
        self._record_failure(task, failure)
        raise failure

    def _remember(self, watched: Watched, sqlstate: str = "") -> None:
        """Remember what the last attempt waited for, to name it if the time is up."""
        if watched.standby or self._worker.gave_standby_up:
            self._standby = watched.standby or standby_names(self._worker)
        if watched.blockers and (watched.waiting or sqlstate == LOCK_NOT_AVAILABLE):
            self._blocker, self._lock = watched.blockers[0], watched.lock

    def _who_locks_the_ledger(self, refusal: Refused) -> Blocker | None:
        """Return the session that has locked the ledger, if that is why one of our own statements failed."""
        if not refusal.of_our_own or refusal.error.sqlstate not in (LOCK_NOT_AVAILABLE, QUERY_CANCELED):
            return None
        try:
            return next(iter(locked.who_locks(self._worker, self._lease.place, TABLES)), None)
        except ConnectionLostError:
            return None

    def _not_written(self, task: Task) -> EntrypointError:
        """Return the error for a migration whose row was not written, although PostgreSQL reported no error."""
        file, place = task.migration.file, self._lease.place
        undone = "what was not committed is rolled back"
        facts = {"version": file.number, "file": file.name}
        if task.reverse:
            return LedgerChangedError(
                f"{file.name}: the row of migration {file.number} was not removed from schema_migrations, although "
                f"PostgreSQL reported no error; {undone}",
                remedy=f"A trigger or rule on schema_migrations keeps the row: {_LOOK_AT_IT}",
                **facts,
            )
        ask = f"BEGIN READ ONLY; {session_state.ours(self._assignment.role)} {writing.is_applied(place, file.number)}"
        try:
            recorded = bool(self._worker.query(f"{ask}; COMMIT", Deadline(2 * GRACE))[-2])
        except StatementError as error:
            return self._refused(error, "could not read the migration history")
        if recorded:
            return LedgerChangedError(
                f"{file.name}: another session recorded it as completed while it ran; {undone}",
                remedy="Check with entrypoint status. If the row is correct, start again: the file is then skipped.",
                **facts,
            )
        return LedgerChangedError(
            f"{file.name}: its row was not written to schema_migrations, although PostgreSQL reported no error; "
            f"{undone}",
            remedy=f"A trigger or rule on schema_migrations blocked the row, or the row was deleted: {_LOOK_AT_IT}",
            **facts,
        )

    def _removed(self, task: Task) -> MigrationFailedError:
        """Return the error for a file after which rows of the ledger or the lock are missing.

        The file has been rolled back. Rows that it had removed exist again; if rows are still missing, another session
        removed them, or a statement in the file that commits by itself. Raises LedgerChangedError if it cannot have
        been the file.
        """
        file = task.migration.file
        spare = (
            "Exclude those two tables from what the file truncates, deletes or drops; or keep them in a separate "
            "schema (MIGRATION_SCHEMA)."
        )
        fate = f", and {task.what_remains}" if task.reverse else " and recorded as failed"
        gone = self._gone(task)
        if gone == "":
            return MigrationFailedError(
                f"{file.name} removed rows from schema_migrations or migration_lock, where this program records what "
                f"is applied and who holds the lock; it was rolled back{fate}",
                remedy=spare,
                version=file.number,
                file=file.name,
            )
        rows = _NO_LONGER_RECORDED + (f" (migration_number: {gone})" if gone else "")
        if gone and task.migration.advice.transactional:
            raise LedgerChangedError(
                f"{file.name}: while it ran, another session changed schema_migrations: {rows}; what was not committed "
                f"is rolled back, and {task.what_remains if task.reverse else 'the file is still pending'}",
                remedy=_RECORD_AGAIN,
                version=file.number,
                file=file.name,
            )
        return MigrationFailedError(
            f"{file.name}: while it ran, {rows}: either the file or another session changed schema_migrations; the "
            "file was recorded as failed",
            remedy=f"{_record_again(gone)} If it was the file: {spare[0].lower()}{spare[1:]}",
            version=file.number,
            file=file.name,
        )

    def _gone(self, task: Task) -> str | None:
        """Return the numbers of the applied migrations whose rows are missing, as words; None if unknown."""
        if not task.kept:
            return ""
        query = writing.gone(self._lease.place, task.kept)
        ask = f"BEGIN READ ONLY; {session_state.ours(self._assignment.role)} {query}; COMMIT"
        try:
            return ", ".join(number or "" for (number,) in self._worker.query(ask, Deadline(2 * GRACE))[-2])
        except StatementError:
            # The table may be locked, for example.
            self._worker.rollback(Deadline(GRACE))
            return None

    def _failure(self, task: Task, refusal: Refused) -> MigrationFailedError:
        """Return the failure for a refusal, with what happened to the rest. Explain it if the ledger is involved."""
        failure = self._plain_failure(task, refusal)
        if refusal.of_our_own and refusal.error.sqlstate == DEPENDENT_OBJECTS_STILL_EXIST:
            name, obstacle = task.migration.file.name, refusal.error.detail or refusal.error.primary
            failure.message += (
                f"; this program recreates its own view after {name}, and something is in the way: {obstacle}"
            )
            failure.change = (
                "Drop what depends on the view migration_status and recreate it afterwards; or leave that view out "
                "of what the file creates, changes or drops. "
            )
            failure.remedy = failure.change + failure.remedy
        elif refusal.about_the_ledger and not classify.trouble(refusal.error.sqlstate):
            where, name = foreign(self._lease.place.schema), task.migration.file.name
            failure.message += (
                f"; schema_migrations and migration_lock in schema {where} belong to this program, which writes to "
                f"them after {name}"
            )
            failure.change = (
                "Leave those two tables out of what the file creates, changes or drops, and do not put triggers on "
                "them; or keep them in a separate schema (MIGRATION_SCHEMA). "
            )
            failure.remedy = failure.change + failure.remedy
        return failure

    def _plain_failure(self, task: Task, refusal: Refused) -> MigrationFailedError:
        if task.reverse:
            failure = refusal.failure(
                self._lease.place.schema,
                reverse=True,
                remedy="Correct the file, or whatever it ran into, and start again.",
            )
            failure.message += f"; it was rolled back, and {task.what_remains}"
            return failure
        failure = refusal.failure(self._lease.place.schema)
        if refusal.error.sqlstate in TO_BE_DROPPED and self._assignment.directory.repeatables:
            failure.change = (
                "If an object from repeatable/NAME.sql is in the way, drop it first (DROP ... IF EXISTS), and put "
                "the line `-- entrypoint: refresh = NAME` at the top of this file. "
            )
            failure.remedy = failure.change + failure.remedy
        if not task.migration.advice.transactional and (gone := self._gone(task)):
            failure.message += f"; meanwhile {_NO_LONGER_RECORDED} (migration_number: {gone})"
            failure.remedy = f"{_record_again(gone)} {failure.remedy}"
        return failure

    def _after_lost_commit(self, task: Task, doubt: InDoubt) -> None:
        """Return if a migration was committed although the connection ended during COMMIT; otherwise raise."""
        file = task.migration.file
        verdict = settle(
            doubt.transaction_id,
            self._assignment.target,
            self._lease.place,
            task.proof,
            self._assignment.role,
            task.deadline.within(_PATIENCE),
        )
        ended, remedy = commit_ended(doubt.lost, self._standby, gave_up=self._worker.gave_standby_up)
        if self._standby is not None:
            self._why = f"{file.name}: {ended}"
        logs.event(
            logs.WARNING,
            "migration.commit_in_doubt",
            f"{file.name}: {ended}; the server says: {verdict}",
            version=file.number,
            file=file.name,
            verdict=verdict,
            remedy=remedy.strip() or None,
        )
        if verdict == "unknown":
            raise MigrationError(
                f"{file.name}: {ended}, and it is unknown whether it was committed",
                remedy=remedy
                + (
                    "Check with entrypoint status: the migration and its row are removed together, or not at all."
                    if task.reverse
                    else "The next start finds out: the migration and its row are committed together, or not at all."
                ),
                version=file.number,
                file=file.name,
            )
        if verdict == "aborted":
            raise self._explain(task, doubt.lost, Spot(file.number, file.name, 0, "COMMIT", None))

    def _explain(self, task: Task, lost: ConnectionLostError, spot: Spot) -> EntrypointError:
        """Return the error that a lost connection means: contend again with a new one, or end this run."""
        if task.deadline.passed():
            return self._out_of_time(task)
        if lost.sqlstate is None or not classify.stopped_by_operator(lost.sqlstate):
            too_often = self._assignment.losses.note(spot, lost)
            again = task.next_try if task.reverse else "Nothing was recorded as failed: the next start tries again."
            return too_many(spot, lost, task.what_remains, again) if too_often else lost
        if self._lease.guard_lost_lately(_NOTICE):
            return self._lease.lost()
        patience = task.deadline.within(_RECONNECT_PATIENCE).remaining()
        if server_restarted(self._lease.place, self._assignment.target, patience):
            return lost
        return self._stopped(task, lost.message, lost.sqlstate)

    def _stopped(self, task: Task, why: str, sqlstate: str) -> MigrationStoppedError:
        file = task.migration.file
        return MigrationStoppedError(
            f"{file.name} was stopped by an operator: {why}; what was not committed is rolled back, "
            f"and {task.what_remains}",
            remedy="Start again when it is safe to run.",
            version=file.number,
            file=file.name,
            sqlstate=sqlstate,
        )

    def _pause(
        self,
        task: Task,
        why: str,
        sqlstate: str,
        attempt: int,
        watched: Watched,
        *,
        refusal: Refused | None = None,
        lock_wait_ms: int | None = None,
    ) -> None:
        """Wait before the next attempt, longer each time, and for a random time so that replicas do not synchronize."""
        seconds = min(growing(_FIRST_PAUSE, attempt - 1, _LONGEST_PAUSE), task.deadline.remaining())
        file = task.migration.file
        blocker = watched.blockers[0] if watched.blockers and sqlstate == LOCK_NOT_AVAILABLE else None
        self._lock = watched.lock
        if blocker is None and refusal is not None:
            blocker, self._lock = self._who_locks_the_ledger(refusal), _ON_THE_LEDGER
        behind = f", behind {blocker.short}" if blocker else ""
        self._blocker, self._why, self._passing = blocker, f"{file.name}: {why}", sqlstate
        logs.event(
            logs.WARNING,
            "migration.retry",
            f"{file.name}: {why}{behind}; trying again in {seconds:.1f} s",
            version=file.number,
            file=file.name,
            sqlstate=sqlstate,
            attempt=attempt,
            pause_ms=round(seconds * 1000),
            lock_wait_ms=lock_wait_ms,
            **(blocker_fields(blocker) if blocker else {}),
        )
        now = time.monotonic()
        retry = f"attempt {attempt} ended ({why}{behind}); the next one starts in {seconds:.1f} s"
        count = len(task.migration.advice.statements)
        self._assignment.board.activity = Activity(file.name, 0, now, now, 1, count, None, retry=retry)
        if task.migration.advice.transactional and self._worker.login_pid == self._lease.place.backend_pid:
            # The session is idle until the next attempt. The server's idle_session_timeout must not end it.
            self._worker.query(transactions.idle_session(self._worker.server_version), task.patience)
        pause(seconds)
        self._assignment.board.activity = None

    def _record_failure(self, task: Task, failure: MigrationFailedError) -> None:
        """Write a `failed` row behind the same fence, but never over a completed one.

        If that does not work, the failure's remedy says so, and the next start tries the file again. A down migration
        has no row: its migration is still applied.
        """
        if task.reverse:
            return
        lease, file = self._lease, task.migration.file
        # Within the time for migrations, as nobody else can get the lock meanwhile.
        deadline = Deadline(max(task.deadline.within(_PATIENCE).remaining(), GRACE))
        message = "\n".join(filter(None, (failure.report or failure.message, failure.place)))
        row = self._failed_row(task, message)
        try:
            lease.open(
                deadline,
                lock_timeout_ms=deadline.milliseconds() // 2 + 1,
                # A file that runs outside a transaction may have made its session read-only.
                statement=f"{transactions.READ_COMMITTED} READ WRITE",
            )
            # If a failover loses the row, the next start only tries the file again.
            self._worker.query(f"{transactions.ON_THIS_SERVER}\n{row}\nCOMMIT", deadline)
        except (StatementError, EntrypointError) as error:
            self._worker.rollback(Deadline(GRACE))
            failure.remedy = f"{failure.change}The failure could not be recorded, so the next start tries it again."
            logs.event(
                logs.WARNING,
                "ledger.failure_not_recorded",
                f"could not record the failure of {file.name}: {error}",
                file=file.name,
            )

    def _failed_row(self, task: Task, message: str) -> str:
        """Return the statements that record a failure."""
        place, version = self._lease.place, self._assignment.app_version
        return writing.row(place, task.migration.file, version, status=FAILED, message=message, milliseconds=0)

    def _out_of_time(self, task: Task, waited: str = "") -> MigrationTimeoutError:
        """Return the error for a file whose time is up; `waited`: what it waited for, if the caller knows."""
        file, declared = task.migration.file, task.migration.advice.directives.timeout
        undone = "what was not committed is rolled back"
        if task.migration.advice.batched:
            undone = f"{undone}. The next run continues after the committed batches"
        why = self._why or self._assignment.losses.last
        if self._standby is None and self._worker.gave_standby_up:
            self._standby = standby_names(self._worker)
        if waited:
            undone = f"{undone}. {waited}"
        elif self._standby is not None:
            undone = f"{undone}. {waited_for_standby(self._standby)} until the time ran out"
        elif self._blocker is not None:
            undone = f"{undone}. {file.name} waited behind {self._blocker.words()}"
            undone += f". It was waiting for {self._lock}" if self._lock else ""
        elif why:
            undone = f"{undone}. The last attempt ended with: {why}"
        shorter = "or make the migration shorter, for example by working in batches."
        if task.migration.advice.batched:
            shorter = "or run it after the rollout, where no such limit applies: `-- entrypoint: phase = after`."
        if declared is not None:
            own = f"-- entrypoint: timeout = {spell(declared)}"
            message = f"{file.name} took longer than it declares ({own}); it was not finished, and {undone}"
            remedy = f"Raise the time in the line `{own}` at the top of the file; {shorter}"
        else:
            budget = round(self._assignment.apply.timeout * 1000)
            message = f"The migrations took longer than {budget}ms; {file.name} was not finished, and {undone}"
            remedy = (
                "Raise MIGRATION_TIMEOUT_MS; give the file its own limit, with a line like `-- entrypoint: timeout = "
                f"30min` at the top; {shorter}"
            )
        remedy = f"{self._blocker.remedy()} Or: {remedy[0].lower()}{remedy[1:]}" if self._blocker else remedy
        known = blocker_fields(self._blocker) if self._blocker else {}
        if self._blocker is None and why and (cause := classify.remedy_of_passing(self._passing)):
            remedy = f"{cause} Then start again."
        elif self._blocker is None and why and not self._why:
            remedy = f"{self._assignment.losses.remedy} Or: {remedy[0].lower()}{remedy[1:]}"
        if self._standby is not None:
            remedy, known = f"{STANDBY_REMEDY} Then start again.", {}
        return MigrationTimeoutError(message, remedy=remedy, version=file.number, file=file.name, **known)

    def _tell_declared(self, runnable: list[Prepared]) -> None:
        """Log how much longer than MIGRATION_TIMEOUT_MS this start may take, and why."""
        declared = {one.file.name: one.advice.directives.timeout for one in runnable}
        own = {name: seconds for name, seconds in declared.items() if seconds is not None}
        if own and not self._assignment.after:
            total = self._assignment.apply.timeout + sum(own.values())
            logs.event(
                logs.INFO,
                "migration.declared_timeout",
                f"{', '.join(f'{name} may take {spell(seconds)}' for name, seconds in own.items())}, and the others "
                f"together MIGRATION_TIMEOUT_MS: at most {spell(total)} in total",
                timeout_ms=round(total * 1000),
            )

    def _tell_after(self, plan: Plan, runnable: list[Prepared]) -> None:
        """Log that files for after the rollout run now, and that replicas of an earlier release cannot be detected.

        An application's sessions do not show which image they belong to, and a pooler even hides their number.
        """
        late = [one.file.name for one in runnable if one.advice.directives.rollout.after]
        if late and plan.initial is None:
            logs.event(
                logs.INFO,
                "migration.after",
                f"{', '.join(late)}: running the files for after the rollout; the database cannot show whether "
                "replicas of an earlier release are still running",
                version=plan.current,
                files=late,
            )

    def _tell_out_of_order(self, plan: Plan) -> None:
        for file in plan.out_of_order:
            logs.event(
                logs.WARNING,
                "migration.out_of_order",
                f"{file.name} comes before {plan.current:03d}, which is already applied; running it anyway",
                version=file.number,
                file=file.name,
            )

    def _tell_done(self, task: Task, began: float, attempt: int) -> Applied:
        file, empty = task.migration.file, task.migration.empty
        seconds = time.monotonic() - began
        self._assignment.board.finish(None if task.reverse else file.number)
        milliseconds = round(seconds * 1000)
        if task.reverse:
            level, name = logs.INFO, "migration.reversed"
            message = (
                f"removed the row of migration {file.number}; nothing needed to be run"
                if empty
                else f"reversed migration {file.number} with {file.name} in {logs.took(milliseconds)}"
            )
        else:
            level, name = (logs.WARNING if empty else logs.INFO), "migration.applied"
            message = (
                f"{file.name} is empty; recorded as applied"
                if empty
                else f"applied {file.name} in {logs.took(milliseconds)}"
            )
        logs.event(
            level,
            name,
            message,
            version=file.number,
            file=file.name,
            duration_ms=milliseconds,
            statements=len(task.migration.advice.statements),
            attempt=attempt,
        )
        return Applied(file.number, file.name, seconds)


def _needs_units(task: Task, refusal: Refused) -> bool:
    """Tell whether a file was refused only because we made it one transaction, which psql would not."""
    reason = refusal.error.sqlstate in ONLY_APART and not refusal.of_our_own
    return reason and task.migration.advice.merged and not task.reverse


def _lost_prepared_statements(refusal: Refused) -> bool:
    """Tell whether the file has deallocated the statements that were prepared for its record.

    No file that `shorthand.suits` accepts does so openly. The next attempt prepares them again, after the file.
    """
    return refusal.of_our_own and refusal.error.sqlstate == INVALID_SQL_STATEMENT_NAME


def _tell_idle(migration: Prepared) -> None:
    """Warn about a COMMIT or ROLLBACK without a BEGIN, which may be a mistake."""
    lines = [f"{one.what} in line {one.line}" for one in migration.advice.left_out if one.idle]
    if lines:
        logs.event(
            logs.WARNING,
            "migration.idle_commit",
            f"{migration.file.name}: {', '.join(lines)} without a BEGIN: left out, as psql would ignore it",
            version=migration.file.number,
            file=migration.file.name,
        )


def _record_again(gone: str | None) -> str:
    """Return what to do about missing rows if there is also a `failed` row, above which a baseline is refused."""
    number = gone.rpartition(" ")[2] if gone else "N"
    return (
        "The next start runs again what is not recorded. To record it without running it: entrypoint repair --failed, "
        f"then entrypoint baseline {number}."
    )


def prevented(failure: MigrationFailedError, trouble: Trouble, task: Task) -> MigrationPreventedError:
    """Return the error for a failure that the file did not cause. It is not recorded, so the next start tries again."""
    return MigrationPreventedError(
        f"{failure.message} ({trouble.words})",
        report=failure.report,
        remedy=f"{trouble.remedy} The file is not the cause. What was not committed is rolled back, and "
        f"{task.what_remains}. {task.next_try}",
        **failure.fields,
    )


def spot_of(task: Task) -> Spot:
    """Return how far a migration has come in its file."""
    file, activity = task.migration.file, task.assignment.board.activity
    if activity is None or not activity.statements:
        return Spot(file.number, file.name, 0, "what comes before its statements", None)
    start = task.migration.advice.statements[activity.statement - 1].start
    line = task.migration.source.count("\n", 0, start) + 1
    if activity.walk is not None:
        batches = activity.walk.batches
        return Spot(file.number, file.name, activity.statement, f"batch {batches + 1}", line, batches)
    return Spot(file.number, file.name, activity.statement, activity.words(), line)


def _lock_timeout_of(migration: Prepared) -> str:
    """Return the name of the setting that limits the file's waits for locks."""
    return "MIGRATION_DDL_LOCK_TIMEOUT_MS" if migration.advice.directives.lock_timeout is None else "its lock-timeout"


def _sets(migration: Prepared, setting: str) -> bool:
    """Tell whether the file may set this timeout itself. PostgreSQL's error does not show who set it."""
    return names(migration.source, setting)
