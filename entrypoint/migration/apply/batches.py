"""Applies a migration in batches: its statement goes through a table by a key, each batch in a separate transaction.

Each transaction consists of the fence, the lookup of where the batch ends, the statement, the update of the ledger's
row with that place, and COMMIT. So a batch and its record are committed together or not at all, whatever crashes. And
as the row alone is needed to continue, another holder can do so, in another session or behind a pooler.
"""

from __future__ import annotations

import time
from random import random

from entrypoint import logs, signals
from entrypoint.counts import count
from entrypoint.database import session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import literal
from entrypoint.database.sqlstate import (
    DATA_EXCEPTIONS,
    DEADLOCK_DETECTED,
    INSUFFICIENT_PRIVILEGE,
    LOCK_NOT_AVAILABLE,
    QUERY_CANCELED,
    SERIALIZATION_FAILURE,
    SYNTAX_ERRORS_OR_ACCESS_RULE_VIOLATIONS,
)
from entrypoint.deadline import Deadline, pause
from entrypoint.migration.apply import beginning, keys, obstacles, pace, standing
from entrypoint.migration.apply.attempt import GRACE, Refused, run_ours
from entrypoint.migration.apply.between import Between
from entrypoint.migration.apply.standing import Trace
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.rows import COMPLETED, FAILED, RUNNING
from entrypoint.migration.ledger.walk import Walk, walk_in, walk_note
from entrypoint.migration.observe.blockers import blocker_fields
from entrypoint.migration.observe.board import Activity
from entrypoint.migration.observe.progress import Progress, Walked
from entrypoint.migration.script.batch import Batch, digest, fill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoint.database.answers import Result, Row
    from entrypoint.errors import EntrypointError
    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.apply.keys import Key, Values
    from entrypoint.migration.apply.watcher import Watched

_IN_THE_WAY = (LOCK_NOT_AVAILABLE, DEADLOCK_DETECTED, SERIALIZATION_FAILURE)
# Classes of SQLSTATE: a value is not valid for the key's type, or the type has no such operator.
_INCOMPARABLE = (DATA_EXCEPTIONS, SYNTAX_ERRORS_OR_ACCESS_RULE_VIOLATIONS)
# After this many failures in a row, name the blocker.
_OFTEN = 3
# A batch is canceled, and tried with half the size, after this many times its target, but at least this many seconds.
_TOO_LONG, _AT_LEAST = 20, 10.0


class BatchRunner:
    """Runs one migration batch by batch. It keeps its state over all attempts on one session."""

    def __init__(
        self, task: Task, out_of_time: Callable[[str], EntrypointError], remember: Callable[[Watched, str], None]
    ) -> None:
        """Take the task; send nothing yet.

        `out_of_time`: returns the error to raise when the time is up, given what was waited for. `remember`: receives
        what the watcher saw of a batch that was rolled back, and its SQLSTATE.
        """
        self._task = task
        self._worker = task.lease.worker
        self._place = task.lease.place
        self._out_of_time, self._remember = out_of_time, remember
        batch = task.migration.advice.directives.batch
        assert batch is not None  # noqa: S101 - for the type checker: this class is only used for such files
        self._batch: Batch = batch
        self._walk = Walk(
            task.migration.file.checksum,
            batch.columns,
            batch.size,
            batch.passes,
            statement=digest(task.migration.advice.body, task.migration.advice.statements[0]),
        )
        self._key: Key | None = None
        self.trace = Trace()
        """What is known about the transaction that a batch runs in."""
        self._attempts = 0
        """How many batches have been tried."""
        self._failures = 0
        """How many attempts at the current batch have failed because of other sessions."""
        self._began = time.monotonic()
        self._met = 0
        """How many keys this process has processed since then."""
        self._between = Between(task, self._began, out_of_time)

    def attempt(self) -> None:
        """Run the remaining batches, and record the migration as completed.

        Raises Refused (earlier batches stay committed, and the next attempt continues after them), MigrationFailedError
        if the file needs attention, MigrationPreventedError if the table cannot be batched by that key, LeaseLostError,
        ConnectionLostError.
        """
        if self._key is None:
            self._key = self._start()
        key = self._key
        while True:
            while not self._walk.over:
                self._next_batch(key)
            if self._walk.turn >= self._batch.passes:
                break
            self._between.writers(key, self._batch.table)
            self._begin_pass(key)
        self._complete()

    def end(self) -> None:
        """Leave no transaction open. Never raises."""
        self._task.watcher.look_closely(None)
        if self._worker.usable:
            self._worker.rollback(Deadline(GRACE))

    # Where to begin.

    def _start(self) -> Key:
        """Find out where to begin, and whether the table can be batched by that key."""
        task, file = self._task, self._task.migration.file
        _, backend_pid = self._open(self._patience)
        # With the file's search_path, not with ours.
        found = self._query(
            f"{session_state.FRESH[0]} SELECT pg_catalog.to_regclass({literal(self._batch.table)})::pg_catalog.oid; "
            f"{session_state.ours(task.assignment.role)} {keys.AS_TEXT} "
            "SELECT status, error_message, migration_number::pg_catalog.text, filename "
            f"FROM {self._place.table('schema_migrations')} WHERE status IN ({literal(RUNNING)}, {literal(FAILED)})"
        )
        oid = found[1][0][0]
        rows = [(status, message) for status, message, number, _ in found[-1] if number == str(file.number)]
        for _, message, number, name in found[-1]:
            if number != str(file.number):
                beginning.refuse_another(task, self._walk, walk_in(message), number or "", name or "")
        key = beginning.judged(task, self._batch, self._query, oid, walk_in(rows[0][1]) if rows else None)
        self._walk = self._walk._replace(ground=key.ground)
        earlier = beginning.resumed(file, self._batch, self._walk, rows[0], self._place.schema) if rows else None
        if earlier is None:
            # If another session has locked the table, look closely enough to see it before our wait for the lock ends.
            task.watcher.look_closely(task.ddl_lock_timeout_ms / 1000)
            self._show(key, backend_pid)
            self._walk = self._with_end_of_pass(key, self._walk)
            if self._walk.last is not None:
                self._ends(key, self._walk)
            self._commit_walk(self._walk)
            task.watcher.look_closely(None)
        else:
            self._walk = earlier
            self._query("COMMIT")
            logs.event(
                logs.WARNING,
                "migration.resumed",
                f"{file.name} {'failed' if rows[0][0] == FAILED else 'was interrupted'} at {earlier.words()}; "
                "continuing from there",
                version=file.number,
                file=file.name,
                **_fields(earlier),
            )
        return key

    def _with_end_of_pass(self, key: Key, walk: Walk) -> Walk:
        """Return the walk with the key at which this pass through the table ends. Rows after it are not included."""
        rows = self._query(key.last())[-1]
        return walk._replace(cursor=None, last=_values(rows[0]) if rows else None, met=0, total=key.table.rows)

    def _begin_pass(self, key: Key) -> None:
        """Begin the next pass through the table."""
        self._open(self._patience)
        self._query(keys.AS_TEXT)
        self._commit_walk(self._with_end_of_pass(key, self._walk._replace(turn=self._walk.turn + 1)))

    # One batch.

    def _next_batch(self, key: Key) -> None:
        """Run the next batch, or pause if other sessions are in the way. First wait for standbys if needed."""
        signals.raise_received()
        self._between.standbys(self._batch.max_replica_lag)
        if self._task.deadline.passed():
            raise self._out_of_time("")
        self._task.lease.check_guard()
        began = time.monotonic()
        limit = self._limit()
        try:
            full = self._run(key, limit)
        except Refused as refusal:
            watched = self._watched(refusal, ended=limit.passed())
            if watched is None:
                raise
            standing.roll_back(self._worker, self.trace)
            self._give_way(refusal, watched)
            return
        elapsed = time.monotonic() - began
        if self._failures:
            self._failures = 0
            self._task.watcher.look_closely(None)
        if full and not self._batch.fixed:
            batch = self._batch
            size = pace.next_size(self._walk.size, elapsed=elapsed, target=batch.target, first=batch.size)
            self._walk = self._walk._replace(size=size)
        if self._batch.pause and not self._walk.over:
            self._between.rest(self._batch.pause)

    def _run(self, key: Key, limit: Deadline) -> bool:
        """Commit one batch; tell whether it had its full number of keys."""
        walk, began = self._walk, time.monotonic()
        if walk.last is None:
            return False
        transaction_id, backend_pid = self._open(limit)
        self._show(key, backend_pid)
        rows = self._ends(key, walk)
        full = len(rows) > 1
        changed = 0
        if rows:
            self.trace.opened(transaction_id)
            first, last = _values(rows[0]), _values(rows[1]) if full else walk.last
            changed = self._change(key.value(first), key.value(last))
            # From here on, only our COMMIT can commit it, together with its row.
            self.trace.closed()
        else:
            last = walk.last
        self._commit_walk(
            walk._replace(
                cursor=last,
                met=walk.met + (walk.size if full else len(rows)),
                rows=walk.rows + changed,
                batches=walk.batches + len(rows[:1]),
                seconds=walk.seconds + time.monotonic() - began,
            )
        )
        self._met += walk.size if full else len(rows)
        return full

    def _ends(self, key: Key, walk: Walk) -> list[Row]:
        """Return the first and the last key of the next batch; only the first, or nothing, if too few keys are left."""
        lookup = key.lookup(walk.cursor, walk.last or (), walk.size)
        fresh = " ".join((keys.AS_BEFORE, *session_state.FRESH))
        try:
            found = self._query(f"{keys.AS_TEXT} {key.path} {lookup}; {fresh}")
        except Refused as refusal:
            if not refusal.error.sqlstate.startswith(_INCOMPARABLE) or refusal.error.sqlstate == INSUFFICIENT_PRIVILEGE:
                raise
            self._worker.rollback(Deadline(2 * GRACE))
            file, schema = self._task.migration.file, self._task.lease.place.schema
            raise obstacles.incomparable(file, self._batch, walk, refusal.error, schema) from refusal
        return found[-1 - fresh.count(";")]

    def _change(self, first: str, last: str) -> int:
        """Run the file's statement for these keys; return how many rows it changed, according to its command tag."""
        task, worker, advice = self._task, self._worker, self._task.migration.advice
        statement = advice.statements[0]
        filled = fill(advice.body, statement, advice.placeholders, first, last)
        changed = 0

        def on_result(result: Result) -> None:
            nonlocal changed
            self.trace.note(result)
            changed = _number_in((result.command_status or b"").decode())

        worker.on_notice = task.log_notice
        try:
            # Sent in a way that the server refuses if it is more than one statement.
            worker.statement(filled.sql, task.patience, on_result)
        except StatementError as error:
            offset = None if error.position is None else filled.origin(error.position)
            raise self._refused(error, statement_start=statement.start, offset=offset) from error
        finally:
            worker.on_notice = None
        return changed

    def _commit_walk(self, walk: Walk) -> None:
        """Commit what this transaction has done, together with the new position of the walk."""
        self._commit(walk, status=RUNNING, message=walk_note(walk))
        self._walk = walk

    def _commit(self, walk: Walk, *, status: str, message: str | None, then: str = "") -> None:
        task, worker = self._task, self._worker
        statement = task.migration.advice.statements[0]
        parts = (
            # A trigger may have changed the session, and behind a pooler the next client gets it.
            session_state.restore(pooled=worker.login_pid != self._place.backend_pid),
            transactions.limits(task.limit, server_version=worker.server_version, role=task.assignment.role),
            f"SET LOCAL lock_timeout = {task.ddl_lock_timeout_ms};",
            task.lease.reassert(),
            writing.kept(self._place, task.kept),
            writing.row(
                self._place,
                task.migration.file,
                task.assignment.app_version,
                status=status,
                message=message,
                milliseconds=min(round(walk.seconds * 1000), 2**31 - 1),
            ),
            then,
            "COMMIT",
        )
        try:
            worker.query("\n".join(filter(None, parts)), task.patience)
        except StatementError as error:
            # An error in the first of these comes from the file: its deferred constraints.
            raise self._refused(error, statement_start=statement.start, behind=error.statement > 0) from error

    def _complete(self) -> None:
        task, walk, file = self._task, self._walk, self._task.migration.file
        self._open(self._patience)
        done = task.rollout + task.refreshed + task.lease.progress(task.following)
        self._commit(walk, status=COMPLETED, message=None, then=done)
        logs.event(
            logs.INFO,
            "migration.batches",
            f"{file.name} changed {count(walk.rows, 'row')} in {count(walk.batches, 'batch', 'batches')}, in "
            f"{walk.seconds:.1f} s",
            version=file.number,
            file=file.name,
            rows=walk.rows,
            batches=walk.batches,
            size=walk.size,
            duration_ms=round(walk.seconds * 1000),
        )

    # Other sessions in the way.

    def _watched(self, refusal: Refused, *, ended: bool) -> Watched | None:
        """Return what the watcher saw of an attempt that should be repeated with a smaller batch; None if not."""
        code = refusal.error.sqlstate
        if code not in (*_IN_THE_WAY, QUERY_CANCELED):
            return None
        watched = self._task.watcher.stand_down()
        return watched if code in _IN_THE_WAY or watched.gave_up is not None or ended else None

    def _give_way(self, refusal: Refused, watched: Watched) -> None:
        """Halve the batch and let other sessions go first; log who they are if this happens repeatedly."""
        task, file, size = self._task, self._task.migration.file, self._walk.size
        self._remember(watched, refusal.error.sqlstate)
        self._failures += 1
        if not self._batch.fixed:
            self._walk = self._walk._replace(size=pace.halved(size, self._batch.size))
        seconds = min(pace.pause(self._failures, random()), task.deadline.remaining())
        often = self._failures >= _OFTEN
        if self._failures == _OFTEN - 1:
            # So that the watcher sees the next attempt's wait in time.
            task.watcher.look_closely(task.ddl_lock_timeout_ms / 1000)
        blocker = watched.blockers[0] if often and watched.blockers else None
        behind = f", behind {blocker.short}" if blocker else ""
        why = refusal.error.primary
        if watched.gave_up is not None:
            why = f"waited {watched.gave_up.seconds:.1f} s for locks in total"
        logs.event(
            logs.WARNING if often else logs.INFO,
            "migration.batch_retry",
            f"{file.name}: a batch of {size} was rolled back ({why}{behind}); trying again with {self._walk.size} in "
            f"{seconds:.1f} s",
            version=file.number,
            file=file.name,
            sqlstate=refusal.error.sqlstate,
            attempt=self._failures,
            size=self._walk.size,
            pause_ms=round(seconds * 1000),
            **(blocker_fields(blocker) if blocker else {}),
            remedy=blocker.remedy() if blocker else None,
        )
        self._between.show(f"a batch was rolled back ({why}{behind}); the next one starts in {seconds:.1f} s")
        pause(seconds)
        task.assignment.board.activity = None

    def _show(self, key: Key, backend_pid: int) -> None:
        """Publish how far the walk is."""
        walk, advice = self._walk, self._task.migration.advice
        left = walk.seconds_left(self._met, time.monotonic() - self._began)
        phase = f"{count(walk.rows, 'row')} in {count(walk.batches, 'batch', 'batches')}"
        phase += f", pass {walk.turn} of {walk.passes}" if walk.passes > 1 else ""
        phase += f", about {_spell(left)} left" if left is not None else ""
        progress = Progress(advice.statements[0].words[0], key.table.name, phase, walk.percent)
        self._attempts += 1
        self._task.assignment.board.work_on(
            Activity(
                self._task.migration.file.name,
                backend_pid,
                self._began,
                self._began,
                1,
                1,
                self._task.lock_patience,
                self._attempts,
                walk=Walked(progress, walk.rows, walk.batches, None if left is None else round(left)),
            )
        )

    # The session.

    @property
    def _patience(self) -> Deadline:
        return self._task.deadline.within(_AT_LEAST)

    def _limit(self) -> Deadline:
        """Return how long this batch may take. It is limited if a smaller batch could take less time."""
        smallest, _ = pace.bounds(self._batch.size)
        if self._batch.fixed or self._walk.size <= smallest:
            return self._task.deadline.within(self._task.deadline.remaining())
        return self._task.deadline.within(max(_AT_LEAST, _TOO_LONG * self._batch.target))

    def _open(self, limit: Deadline) -> tuple[str, int]:
        """Open a transaction behind the fence; return its id and the backend that works on it."""
        task = self._task
        return run_ours(
            task,
            lambda: task.lease.open(limit, lock_timeout_ms=task.ddl_lock_timeout_ms, patience=task.patience),
        )

    def _query(self, sql: str) -> list[list[Row]]:
        try:
            return self._worker.query(sql, self._task.patience)
        except StatementError as error:
            raise self._refused(error) from error

    def _refused(
        self,
        error: StatementError,
        *,
        statement_start: int | None = None,
        offset: int | None = None,
        behind: bool = False,
    ) -> Refused:
        walk = self._walk if self._walk.batches else None
        return Refused(
            self._task.migration, error, statement_start=statement_start, offset=offset, behind=behind, walk=walk
        )


def _values(row: Row) -> Values:
    return tuple(value or "" for value in row)


def _number_in(tag: str) -> int:
    """Return the number of rows in a command tag, such as `UPDATE 5` or `INSERT 0 5`."""
    number = tag.rpartition(" ")[2]
    return int(number) if number.isdecimal() else 0


def _spell(seconds: float) -> str:
    """Return a time in words, no more precise than an estimate is."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _fields(walk: Walk) -> dict[str, object]:
    return {"rows": walk.rows, "batches": walk.batches, "size": walk.size, "percent": walk.percent}
