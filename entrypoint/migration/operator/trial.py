"""One trial: everything pending in one transaction, which is never committed."""

from __future__ import annotations

import time

from entrypoint import logs
from entrypoint.database import classify, session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import THIS_DATABASE
from entrypoint.database.sqlstate import UNSAFE_NEW_ENUM_VALUE_USAGE
from entrypoint.deadline import Deadline
from entrypoint.errors import EntrypointError
from entrypoint.migration.apply import standing, transactional
from entrypoint.migration.apply.attempt import AS_DEFERRED, DEFERRED_TRIGGERS, GRACE, ONLY_APART, Refused, run_ours
from entrypoint.migration.apply.standing import Trace
from entrypoint.migration.ledger import tables, widening, writing
from entrypoint.migration.ledger.finding import refuse_strangers
from entrypoint.migration.ledger.refusal import refused_on
from entrypoint.migration.ledger.rows import COMPLETED
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.database.answers import Notice
    from entrypoint.errors.migration import MigrationFailedError
    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.lock.lease import Lease

    Seen = dict[tuple[str, str], str]
    """The file that first took each lock, by relation (its number) and mode."""

# PostgreSQL refuses the use of a new enum value in the transaction that adds it.

# Each migration begins with these constraints deferred; the one before has ended with all of them checked. A name that
# also belongs to a constraint that is not deferred is left alone.
_DEFERRED = """
SELECT pg_catalog.string_agg(name, ', ') FROM (
    SELECT pg_catalog.format('%I.%I', n.nspname, c.conname) AS name
    FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
    WHERE NOT pg_catalog.pg_is_other_temp_schema(n.oid) AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    GROUP BY n.nspname, c.conname HAVING pg_catalog.bool_and(c.condeferred)) AS deferred;"""

_LOCKS = f"""
SELECT l.relation, l.mode FROM pg_catalog.pg_locks l
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND l.database = {THIS_DATABASE};"""


class Rehearsed(NamedTuple):
    """A migration that succeeded, up to the commit."""

    version: int
    file: str
    seconds: float
    statements: int
    notices: tuple[Notice, ...]


class NeedsCommitError(Exception):
    """A migration needs something that an earlier one, or a part of itself, has to commit first."""

    def __init__(self, index: int, refusal: Refused | None, why: str) -> None:
        """Take the migration's position in the list, PostgreSQL's error, if any, and its meaning."""
        super().__init__(index)
        self.index = index
        self.refusal = refusal
        self.why = why


class Trial:
    """One transaction with all migrations."""

    def __init__(self, lease: Lease, assignment: Assignment, rehearsed: list[Rehearsed]) -> None:
        """Work under `lease`; add what succeeds to `rehearsed`."""
        self._lease = lease
        self._worker = lease.worker
        self._assignment = assignment
        self._rehearsed = rehearsed
        self._seen: Seen = {}
        self.trace = Trace()
        self.task: Task | None = None
        """What it is doing, or was doing when it failed."""

    def through(self, tasks: Sequence[Task]) -> Seen:
        """Run all migrations; return the locks at the end. Raises Refused, ConnectionLostError, or a final error."""
        self._rehearsed.clear()
        self.task = tasks[0]
        _, backend_pid = transactional.begin(tasks[0], self.trace)
        place = self._lease.place
        # While an earlier system's tables are upgraded, every start has to wait. So do that at the end, for a moment,
        # if the migrations do not use them.
        early = not place.complete and (not place.ledger or any(tables.mentions(task.migration.text) for task in tasks))
        if early:
            self._set_up(tasks[0])
        for index, task in enumerate(tasks):
            self.task = task
            self._one(task, backend_pid, index)
        if not place.complete and not early:
            self._set_up(tasks[-1])
        self._make_room(tasks)
        self._plan_row(tasks[-1])
        return self._seen

    def _one(self, task: Task, backend_pid: int, index: int) -> None:
        migration = task.migration
        notices: list[Notice] = []

        def on_notice(notice: Notice) -> None:
            notices.append(notice)
            task.log_notice(notice)

        if (
            migration.advice.unless_deferred
            and run_ours(task, lambda: self._worker.query(DEFERRED_TRIGGERS, task.patience))[-1]
        ):
            raise NeedsCommitError(index, None, f"runs unit by unit, each in its own transaction: {AS_DEFERRED}")
        began = time.monotonic()
        self._assignment.board.activity = None
        try:
            still_in = transactional.execute(task, self.trace, backend_pid, on_notice, rehearsal=True)
        except Refused as refusal:
            sqlstate = refusal.error.sqlstate
            if migration.advice.merged and sqlstate in ONLY_APART:
                why = f"cannot be one transaction ({sqlstate})"
                raise NeedsCommitError(index, refusal, why) from refusal
            if sqlstate == UNSAFE_NEW_ENUM_VALUE_USAGE and index:
                why = "uses a value of an enumeration that an earlier one adds"
                raise NeedsCommitError(index, refusal, why) from refusal
            raise
        if not still_in:
            raise self.file_ended_transaction(task)
        deferred = self._put_back(task)
        if deferred:
            run_ours(task, lambda: self._worker.query(f"SET CONSTRAINTS {deferred} DEFERRED", task.patience))
        done = Rehearsed(
            migration.file.number,
            migration.file.name,
            time.monotonic() - began,
            len(migration.advice.statements),
            tuple(notices),
        )
        self._rehearsed.append(done)
        logs.event(
            logs.INFO,
            "rehearsal.file",
            f"rehearsed {done.file} in {logs.took(done.seconds * 1000)}",
            version=done.version,
            file=done.file,
            duration_ms=round(done.seconds * 1000),
            statements=done.statements,
        )

    def _put_back(self, task: Task) -> str | None:
        """Do everything before the commit; note the locks; return the constraints to defer again."""
        lease = self._lease
        parts = [
            session_state.restore(pooled=self._worker.login_pid != lease.place.backend_pid),
            transactions.limits(task.patience, server_version=self._worker.server_version, role=self._assignment.role),
            f"SET LOCAL lock_timeout = {task.ddl_lock_timeout_ms};",
        ]
        if tables.mentions(task.migration.text):
            parts += [tables.setup(lease.place, None), "RESET client_min_messages;"]
        parts += [_LOCKS, _DEFERRED, *session_state.FRESH]
        results = run_ours(task, lambda: self._worker.query("\n".join(parts), task.patience))
        locks, deferred = results[-2 - len(session_state.FRESH) : -len(session_state.FRESH)]
        for oid, mode in locks:
            self._seen.setdefault((oid or "", mode or ""), task.migration.file.name)
        return deferred[0][0]

    def _set_up(self, task: Task) -> None:
        """Create or upgrade the ledger's tables, to be rolled back with the rest."""
        setup = tables.setup(self._lease.place, self._assignment.schema)
        ours_first = session_state.ours(self._assignment.role)
        parts = (ours_first, setup, "RESET client_min_messages;", *session_state.FRESH)
        try:
            refuse_strangers(self._worker, self._lease.place, self._assignment.role, task.patience)
            self._worker.query("\n".join(parts), task.patience)
        except StatementError as error:
            raise self._judged(error, task, "the migration history could not be created or upgraded") from error

    def _make_room(self, tasks: Sequence[Task]) -> None:
        """Check that long numbers could be written, as a real start does before the first one."""
        if not widening.are_long(task.migration.file.number for task in tasks):
            return
        place, task = self._lease.place, tasks[-1]
        ours_first = session_state.ours(self._assignment.role)
        try:
            column = widening.read_column(
                self._worker.query(f"{ours_first}\n{widening.question(place)}", task.patience)[-1]
            )
            if column.narrow:
                widening.refuse_what_is_in_the_way(place, column)
                self._worker.query(widening.change(place, column), task.patience)
        except StatementError as error:
            raise self._judged(error, task, "the column migration_number could not be made bigint") from error

    def _plan_row(self, task: Task) -> None:
        """Check that a row could be written to the ledger. Writing it would use a number of its sequence."""
        row = writing.insert(self._lease.place, task.migration.file, self._assignment.app_version, status=COMPLETED)
        try:
            self._worker.query(f"{session_state.ours(self._assignment.role)}\nEXPLAIN {row}", task.patience)
        except StatementError as error:
            raise self._judged(error, task, "the migration history could not be written") from error

    def file_ended_transaction(self, task: Task, refusal: Refused | None = None) -> MigrationFailedError:
        """Return the error for the one thing that must not happen: a COMMIT that the parser missed."""
        failure = standing.file_ended_transaction(task, refusal)
        before = ", ".join(done.file for done in self._rehearsed)
        if before:
            failure.message += f"; so is, in the same transaction, what was rehearsed before it: {before}"
            failure.remedy = "Look what is there now, undo it by hand or record it, and remove COMMIT from the file."
        return failure

    def undo(self) -> None:
        """Roll everything back, and release the session's locks, which a rollback does not. Never raises."""
        if not self._worker.usable or not self._worker.in_transaction:
            return
        try:
            # In one message, because a pooler may send the next one to another server session.
            self._worker.query("ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()", Deadline(2 * GRACE))
        except (StatementError, EntrypointError):
            # The server rolls back when the connection ends.
            self._worker.abandon()

    def _judged(self, error: StatementError, task: Task, doing: str) -> EntrypointError | Refused:
        """Return the error for a refused statement about the ledger, or the migration's if that is the cause."""
        if classify.may_pass(error.sqlstate) or classify.stopped_by_operator(error.sqlstate):
            return Refused(task.migration, error)
        # Now, because the next question ends the transaction, but keeps the locks of the session.
        self.undo()
        schema, role = self._lease.place.schema, self._assignment.role
        return refused_on(self._worker, schema, role, error, doing, reading=False)
