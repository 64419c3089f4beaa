"""A migration as the task of its attempts, up or down, and the error for one that PostgreSQL rejected."""

from __future__ import annotations

import time

from entrypoint import logs
from entrypoint.database.answers import StatementError
from entrypoint.database.sqlstate import (
    ACTIVE_SQL_TRANSACTION,
    DUPLICATE_FUNCTION,
    DUPLICATE_OBJECT,
    DUPLICATE_SCHEMA,
    DUPLICATE_TABLE,
    INVALID_TRANSACTION_TERMINATION,
    OBJECT_IN_USE,
    UNSAFE_NEW_ENUM_VALUE_USAGE,
)
from entrypoint.deadline import Deadline
from entrypoint.errors.migration import MigrationFailedError
from entrypoint.migration.ledger import tables, writing
from entrypoint.migration.ledger.rows import COMPLETED
from entrypoint.migration.ledger.walk import walk_note
from entrypoint.migration.ledger.words import CORRECT
from entrypoint.migration.observe.board import Activity
from entrypoint.migration.script.prepare import not_in_a_down_migration
from entrypoint.migration.script.report import render
from entrypoint.migration.script.units import stop, units_of
from entrypoint.records import NamedTuple
from entrypoint.secret_patterns import may_hold_password

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypedDict, TypeVar

    from entrypoint.database.answers import Notice
    from entrypoint.migration.apply.watcher import Watcher
    from entrypoint.migration.assignment import Assignment
    from entrypoint.migration.ledger.walk import Walk
    from entrypoint.migration.lock.lease import Lease
    from entrypoint.migration.script.prepare import Prepared
    from entrypoint.migration.script.units import Unit

    _T = TypeVar("_T")

    class Opening(TypedDict):
        """The arguments of `Lease.open` that depend on the migration."""

        statement: str
        lock_timeout_ms: int


# We wait this many seconds longer than PostgreSQL's own timeouts, so that its answer, which has details, comes first.
GRACE = 0.5

_NOTICE_LEVELS = {"WARNING": logs.WARNING, "DEBUG": logs.DEBUG}


# Errors in a database whose schema existed before this program did.
THERE_ALREADY = (DUPLICATE_FUNCTION, DUPLICATE_OBJECT, DUPLICATE_SCHEMA, DUPLICATE_TABLE)
# Statements that need a separate transaction for reasons that only the server knows.
_NEEDS = {
    ACTIVE_SQL_TRANSACTION: "It cannot run inside a transaction",
    INVALID_TRANSACTION_TERMINATION: "A DO block or a procedure that ends transactions cannot run inside one",
    UNSAFE_NEW_ENUM_VALUE_USAGE: "A new enum value cannot be used in the transaction that adds it",
}
ONLY_APART = (*_NEEDS, OBJECT_IN_USE)
"""Errors that a file gets in one transaction, but not if it runs in several."""
_IN_A_MIGRATION = {
    ACTIVE_SQL_TRANSACTION: ": put `-- entrypoint: no-transaction` at the top of the file.",
    INVALID_TRANSACTION_TERMINATION: ": put `-- entrypoint: no-transaction` at the top of the file.",
    UNSAFE_NEW_ENUM_VALUE_USAGE: ": use it in the next migration, or put `-- entrypoint: no-transaction` at the top of "
    "the file.",
}
# In a file that runs outside a transaction: for a statement between its own BEGIN and COMMIT, and for one in a
# transaction of ours.
_IN_A_BLOCK = ": move it out of the BEGIN … COMMIT block."
_IN_A_UNIT = {
    INVALID_TRANSACTION_TERMINATION: ", and all the other statements of this file do: run the procedure with CALL, "
    "as a separate statement.",
}


DEFERRED_TRIGGERS = "SELECT FROM pg_catalog.pg_trigger WHERE tginitdeferred LIMIT 1"
"""Returns a row if a file with `Advice.unless_deferred` must run as units.

It runs just before the file, because an earlier file may create such a trigger.
"""
AS_DEFERRED = "the database has an INITIALLY DEFERRED trigger, and the file changes rows before a COMMIT"


class Task(NamedTuple):
    """One migration, and everything needed to apply it."""

    assignment: Assignment
    lease: Lease
    migration: Prepared
    following: str | None
    """The name of the file that comes next, for the lock's row."""
    deadline: Deadline
    """For all migrations together, or for this one if it declares a timeout."""
    watcher: Watcher
    lock_patience: float | None
    """How many seconds one transaction may wait for locks in total; None if the file sets this itself."""
    reverse: bool = False
    """Whether this is a down migration, so that the row is removed."""
    kept: frozenset[int] = frozenset()
    """The numbers of applied migrations with files, whose rows must still exist when this one commits."""
    initial: int | None = None
    """For the first migration in a new database: up to this number, files with `phase = after` run with the others."""
    ends_initial: bool = False
    """Whether this is the last of those."""
    repeatable: str = ""
    """The file's name if it is in repeatable/; otherwise empty."""
    upcoming: Prepared | None = None
    """The migration that comes next, if its transaction can be opened in the message that commits this one."""

    @property
    def patience(self) -> Deadline:
        """How long to wait for the server's answers."""
        return Deadline(self.deadline.remaining() + GRACE)

    @property
    def limit(self) -> Deadline:
        """How long the server may take for our statements after the file: less than `patience`, to answer first."""
        return Deadline(self.deadline.remaining() + GRACE / 2)

    @property
    def ddl_lock_timeout_ms(self) -> int:
        """PostgreSQL's `lock_timeout` for an attempt."""
        declared = self.migration.advice.directives.lock_patience
        return round((self.assignment.apply.ddl_lock_timeout if declared is None else declared) * 1000)

    @property
    def opening(self) -> Opening:
        """How to begin the file's transaction."""
        return {"statement": self.migration.advice.begin, "lock_timeout_ms": self.ddl_lock_timeout_ms}

    @property
    def record(self) -> str:
        """The statements that record in the ledger what the file has done."""
        place, file = self.lease.place, self.migration.file
        if self.reverse:
            return writing.reversal(place, file.number)
        return writing.row(place, file, self.assignment.app_version, status=COMPLETED) + self.rollout + self.refreshed

    @property
    def rollout(self) -> str:
        """The statements that add to the completed row what it means for the rollout."""
        place, floor = self.lease.place, self.migration.advice.directives.rollout.floor
        said = writing.rollout(place, self.migration.file.number, floor, self.initial)
        return f"{said}{writing.initial_is_done(place)}" if self.ends_initial else said

    @property
    def refreshed(self) -> str:
        """The statement that marks the repeatable files whose objects this file drops, to be applied again."""
        names = self.migration.advice.directives.refresh
        if not names:
            return ""
        from entrypoint.migration.ledger.repeated import record_drop

        return record_drop(self.lease.place, names, self.assignment.directory.newest)

    @property
    def proof(self) -> str:
        """The query that returns a row if the ledger has the record of this migration."""
        if self.repeatable:
            from entrypoint.migration.ledger.repeated import is_in_force

            return is_in_force(self.lease.place, self.repeatable, self.migration.file.checksum)
        is_in = writing.is_forgotten if self.reverse else writing.is_applied
        return is_in(self.lease.place, self.migration.file.number)

    @property
    def what_remains(self) -> str:
        """What remains true if this attempt fails, as a clause."""
        return f"migration {self.migration.file.number} is still applied" if self.reverse else "it is still pending"

    @property
    def next_try(self) -> str:
        """When it is tried again, as a sentence. A start never runs a down migration."""
        if self.reverse:
            return "No start runs it. Once the cause is fixed, run entrypoint rollback again."
        return "The next start tries it again."

    def work_on(
        self,
        statement: int,
        backend_pid: int,
        *,
        transaction: int = 0,
        limited: bool = True,
    ) -> None:
        """Tell the watcher which statement is next, counted from 1.

        `transaction`: a different number for each transaction of an attempt. `limited`: whether to limit how long the
        transaction may wait for locks in total.
        """
        count = len(self.migration.advice.statements)
        now = time.monotonic()
        statement = min(statement, count)
        board = self.assignment.board
        before = board.activity
        board.work_on(
            Activity(
                self.migration.file.name,
                backend_pid,
                now if before is None else before.began,
                now,
                statement,
                count,
                self.lock_patience if limited else None,
                transaction,
            )
        )

    def log_notice(self, notice: Notice) -> None:
        """Log a message from the server."""
        file = self.migration.file
        logs.event(
            _NOTICE_LEVELS.get(notice.severity, logs.INFO),
            "migration.notice",
            f"{file.name}: {notice.severity}: {notice.message}",
            version=file.number,
            file=file.name,
            sqlstate=notice.sqlstate,
            detail=notice.detail,
            hint=notice.hint,
        )


class Refused(Exception):  # noqa: N818 - the result of one attempt, which the leader judges
    """PostgreSQL rejected part of a migration, for the reason in `error`."""

    def __init__(
        self,
        migration: Prepared,
        error: StatementError,
        *,
        statement_start: int | None = None,
        offset: int | None = None,
        behind: bool = False,
        unit: Unit | None = None,
        walk: Walk | None = None,
    ) -> None:
        """Take where in the file it was, as far as that is known.

        `statement_start`: where the failed statement begins. `offset`: the character that the error points at. Both are
        offsets in the file's text, and None for one of our own statements. `behind`: whether it was one of our own
        statements after a part of the file; that part begins at `statement_start`, if known. `unit`: the failed unit of
        a file that runs outside a transaction. `walk`: how far a file in batches had come, if a batch is committed.
        """
        super().__init__(str(error))
        self._migration = migration
        self.error = error
        self._statement_start = statement_start
        self._offset = offset
        self._behind = behind
        self._unit = unit
        self._walk = walk
        where = self._where
        # Errors from our own checks of the ledger's rows are evaluated later, and quote nothing from the file.
        of_ours = writing.is_not_written(error) or writing.are_gone(error)
        self._hidden = where is not None and not of_ours and may_hold_password(migration.statement_at(where))
        if self._hidden:
            # Here, and not in `failure`, which is not the only place that shows it.
            error.hide()

    @property
    def about_the_ledger(self) -> bool:
        """Whether our own statement about ledger or lock was rejected, or one in the file that mentions them."""
        where = self._where
        return self.of_our_own or (where is not None and tables.mentions(self._migration.statement_at(where)))

    @property
    def of_our_own(self) -> bool:
        """Whether our own statement about ledger or lock was rejected.

        Our first statement after the file also checks the file's deferred constraints; those are the file's own.
        """
        return self._behind or (self._where is None and self.error.statement > 0)

    @property
    def _where(self) -> int | None:
        return self._offset if self._offset is not None else self._statement_start

    def failure(self, schema: str, *, reverse: bool = False, remedy: str | None = None) -> MigrationFailedError:
        """Return the error for the log and the ledger, which is in `schema`.

        `reverse`: whether the file is a down migration. `remedy`: replaces the usual remedy if nothing is recorded.
        """
        error, file, text = self.error, self._migration.file, self._migration.source
        # Without a record, there is no row to repair first.
        forget = "entrypoint repair --failed, then " if remedy is None else ""
        fate, usual = ("", "") if remedy else self._of_a_batch(schema) or self._usual()
        remedy = remedy or usual
        if way_out := self._way_out(schema, reverse=reverse):
            remedy = f"{way_out} {remedy}"
        if error.sqlstate in THERE_ALREADY and not reverse:
            remedy = (
                f"{remedy} If the schema existed before this program did, record how far it is: {forget}entrypoint "
                "baseline N."
            )
        where = self._where
        line = None if where is None else text.count("\n", 0, where) + 1
        failure = MigrationFailedError(
            f"{file.name}{'' if line is None else f':{line}'}: {error.primary}{fate and f'; {fate}'}",
            report=render(
                file.name, text, error, statement_start=self._statement_start, offset=self._offset, hidden=self._hidden
            ),
            remedy=remedy,
            version=file.number,
            file=file.name,
            line=line,
            sqlstate=error.sqlstate,
            detail=error.detail,
            hint=error.hint,
            context=error.context,
        )
        failure.place = self.place
        return failure

    @property
    def place(self) -> str:
        """Where the file can continue once it is fixed, for its row; empty if nothing in it is committed."""
        if self._walk is not None:
            return walk_note(self._walk)
        index, units = self._units
        advice = self._migration.advice
        return stop(advice.body, advice, units, index) if index else ""

    def _of_a_batch(self, schema: str) -> tuple[str, str] | None:
        """Return what happened to the batch, and what to do; None for a file without batches."""
        if not self._migration.advice.batched:
            return None
        from entrypoint.database.spelling import history  # only needed after a failure

        if self._walk is None:
            return "the batch was rolled back, and no earlier batch is committed", CORRECT
        return f"the batch was rolled back, and the earlier ones are committed: {self._walk.words()}", (
            "Once the cause is fixed, entrypoint repair --failed makes the next run continue with that batch, if the "
            f"file is unchanged. To start from the first batch instead: DELETE FROM {history(schema)} WHERE "
            f"migration_number = {self._migration.file.number} AND status = 'failed'."
        )

    @property
    def _units(self) -> tuple[int, tuple[Unit, ...]]:
        """The index of the failed unit, and all units of the file."""
        advice = self._migration.advice
        if self._unit is None or advice.transactional:
            return 0, ()
        units = units_of(advice.body, advice)
        return next(index for index, unit in enumerate(units) if unit.number == self._unit.number), units

    def _usual(self) -> tuple[str, str]:
        """Return what happened to the migration's changes, and what to do."""
        unit, advice = self._unit, self._migration.advice
        if advice.transactional:
            return "it was rolled back and recorded as failed", CORRECT
        index, units = self._units
        if unit is None:
            return (
                "the statements before it are committed",
                f"Remove them from the file, or make them safe to run again. {CORRECT}",
            )
        if index:
            text, statements = self._migration.source, advice.statements
            line = statements[unit.number - 1].line
            last = text.count("\n", 0, statements[unit.number - 2].end) + 1
            fate = "was rolled back" if unit.begin else "failed"
            where = f"{spelt_units(index)} of {len(units)} (lines {statements[0].line} to {last})"
            then = f"It then continues at line {line}, if the statements above that line are unchanged."
            return (
                f"the statements before it are committed: {where}; unit {index + 1} (line {line}) {fate}",
                f"{CORRECT} {then} Otherwise, or if you delete its row by hand, it runs from its first statement.",
            )
        if unit.begin:
            return "it was rolled back, and nothing in the file was committed", CORRECT
        if unit.words[:1] in (("CALL",), ("DO",)):
            return (
                "what this statement has committed itself stays",
                f"Make the file's first statement safe to run again. {CORRECT}",
            )
        return "nothing in the file was committed before that statement", CORRECT

    def _way_out(self, schema: str, *, reverse: bool) -> str | None:
        """Return what to do about a statement that cannot run in its transaction; None for other errors."""
        sqlstate, unit, file = self.error.sqlstate, self._unit, self._migration.file
        why = _NEEDS.get(sqlstate)
        if why is None:
            return None
        if reverse:
            from entrypoint.database.spelling import history

            return f"{why}, {not_in_a_down_migration(file.number, history(schema))}."
        if self._migration.advice.transactional:
            return why + _IN_A_MIGRATION[sqlstate]
        if unit is None or not unit.begin:
            return None
        if unit.in_own_block:
            return why + _IN_A_BLOCK
        return why + _IN_A_UNIT[sqlstate] if sqlstate in _IN_A_UNIT else None


def spelt_units(count: int) -> str:
    """Return the first `count` units of a file in words."""
    return "unit 1" if count == 1 else f"units 1 to {count}"


def run_ours(task: Task, act: Callable[[], _T]) -> _T:
    """Run our own statements around the file's. If PostgreSQL rejects one, Refused has no place in the file."""
    try:
        return act()
    except StatementError as error:
        raise Refused(task.migration, error) from error
