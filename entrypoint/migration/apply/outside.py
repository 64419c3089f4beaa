"""Applies a migration that cannot run in one transaction: unit by unit, on a direct connection.

A statement outside a transaction has no fence. Instead, the worker's session holds a second advisory lock in shared
mode, and a process that takes over the migration lock waits until that one is free. Before such a statement is sent, a
`running` row names it, so that a crash in the middle can be recognized.
"""

from __future__ import annotations

import time

from entrypoint import logs
from entrypoint.database import session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.database.quoting import identifier, literal
from entrypoint.database.session_state import Timeouts
from entrypoint.database.sqlstate import DUPLICATE_TABLE
from entrypoint.deadline import Deadline
from entrypoint.errors import ConfigurationError, EntrypointError
from entrypoint.errors.migration import MigrationFailedError
from entrypoint.migration.apply.attempt import GRACE, Refused, run_ours
from entrypoint.migration.apply.standing import Trace, file_ended_transaction, strings_read_otherwise
from entrypoint.migration.ledger import writing
from entrypoint.migration.ledger.keys import session_key
from entrypoint.migration.ledger.rows import COMPLETED, FAILED, RUNNING
from entrypoint.migration.ledger.walk import walk_in
from entrypoint.migration.script import strings
from entrypoint.migration.script.calls import as_in_catalog
from entrypoint.migration.script.units import (
    MayHaveRun,
    Setting,
    StopPoint,
    Unit,
    goes_on_at,
    left_in_session,
    needs_its_session,
    reached,
    repeatable,
    stop,
    stopped_at,
    units_of,
    without_stop,
)
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from entrypoint.database.answers import Result
    from entrypoint.database.session import Session
    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.ledger.place import Place
    from entrypoint.migration.script.prepare import Prepared

_OUR_ENCODING = "UTF8"
_LOCK_TABLE = "migration_lock"
_DIRECTLY = "Set MIGRATION_DATABASE_URL to the server's own address; DATABASE_URL can stay as it is."
_COMMIT_BY_THEMSELVES = (("CALL",), ("DO",))


def refuse_behind_pooler(prepared: Iterable[Prepared], session: Session, place: Place) -> None:
    """Raise ConfigurationError if some file needs a session that lasts, and a pooler is in between.

    A pooler is detected because the backend that answers a query is not the one that answered the login.
    """
    if session.login_pid == place.backend_pid:
        return
    others = [one for one in prepared if not (one.advice.transactional or one.advice.batched)]
    names = [one.file.name for one in others if one.advice.no_transaction or one.advice.outside]
    if names:
        raise ConfigurationError(
            f"{', '.join(names)} must run outside a transaction. That needs a direct connection, and this one goes "
            "through a pooler; nothing was run",
            remedy=_DIRECTLY,
        )
    for one in others:
        if why := needs_its_session(one.advice.body, units_of(one.advice.body, one.advice)):
            raise ConfigurationError(
                f"{one.file.name} runs as units ({one.advice.units}), and {why}. That needs a direct connection, and "
                "this one goes through a pooler; nothing in the file was run",
                remedy=_DIRECTLY,
            )


class UnitRunner:
    """Runs one migration unit by unit. It keeps its state over all attempts on one session.

    Between the units, and between attempts, the session stays as the file has left it. Our own statements run in
    transactions whose settings are local to them (`session_state`).
    """

    def __init__(self, task: Task) -> None:
        """Take the task; send nothing yet."""
        self._task = task
        self._worker = task.lease.worker
        self._place = task.lease.place
        self._count = len(task.migration.advice.statements)
        self._units = units_of(task.migration.advice.body, task.migration.advice)
        self._began = time.monotonic()
        self._started = False
        self._next = 0
        """The index of the first unit that has not run."""
        self._named: int | None = None
        """The index of the unit that the ledger's row names as next; None while there is no row."""
        self._refused: int | None = None
        """The index of the unit that PostgreSQL refused last, in this session."""
        self._lent: Timeouts | None = None
        """The timeouts that we have set in the session, for a statement outside any transaction."""
        self._pooled = self._worker.login_pid != self._place.backend_pid
        """Whether a session does not last beyond a transaction, so that each unit begins in a fresh one."""
        self._backend_pid = self._place.backend_pid
        self.trace = Trace(session_lasts=not self._pooled)
        """What is known about the transaction that a unit runs in."""
        self._encoding: str | None = None
        """The file's own client_encoding. Ours is in effect whenever a message begins."""

    def attempt(self) -> None:
        """Run the remaining units, and record the migration as completed together with the last one.

        Raises Refused (earlier units stay committed, and the next attempt continues after them), MigrationFailedError
        if it is unknown how far an earlier run got or what it left in a session that has ended, LeaseLostError,
        ConnectionLostError.
        """
        if not self._started:
            self._start()
        while self._next < len(self._units):
            self._step(self._units[self._next])
        if self._named != self._next:
            self._record()

    def end(self) -> None:
        """Reset the session for the next file, including our lock. Never raises."""
        if not self._worker.usable:
            return
        self._worker.rollback(Deadline(GRACE))
        if self._pooled:
            return
        try:
            self._worker.query("DISCARD ALL", Deadline(2 * GRACE))
        except (StatementError, EntrypointError):
            self._worker.abandon()

    # Where to begin.

    def _start(self) -> None:
        """Take the second advisory lock, and find out where to begin."""
        file = self._task.migration.file
        if not self._pooled:
            # After an earlier file's transaction, PostgreSQL treats the database's defaults as values set in the
            # session.
            self._query("RESET lock_timeout; RESET statement_timeout")
        self._open(transactions.READ_COMMITTED)
        rows = self._query(
            f"SELECT status, error_message, checksum = {literal(file.checksum)} "
            f"FROM {self._place.table('schema_migrations')} WHERE migration_number = {file.number} "
            f"AND status IN ({literal(RUNNING)}, {literal(FAILED)}); {self._as_role} COMMIT"
        )[0]
        for status, message, unchanged in rows:
            stopped = stopped_at(message or "")
            if status == RUNNING:
                self._resume(message or "an unknown statement", unchanged=unchanged == "t")
            elif stopped is not None:
                self._go_on(stopped, message or "")
        self._started = True

    def _go_on(self, stopped: StopPoint, message: str) -> None:
        """Continue where the file failed, now that it is fixed; from the beginning if earlier statements changed."""
        advice, file = self._task.migration.advice, self._task.migration.file
        index = goes_on_at(advice.body, advice, self._units, stopped)
        if index is None:
            logs.event(
                logs.WARNING,
                "migration.begun_again",
                f"{file.name} failed at line {stopped.line}, and the statements before it have changed since; running "
                "it from its first statement",
                file=file.name,
                statement=stopped.statement,
            )
            return
        self._restore_session(index, f"failed at line {stopped.line}", message)
        self._next = index
        logs.event(
            logs.WARNING,
            "migration.resumed",
            f"{file.name} failed at line {stopped.line}, and the statements before it are unchanged; continuing there",
            file=file.name,
            statement=stopped.statement,
        )

    def _resume(self, row: str, *, unchanged: bool) -> None:
        """Continue where an earlier run was interrupted; `row` is the message of the file's row."""
        walk = walk_in(row)
        if walk is not None and walk.batches:
            from entrypoint.migration.apply.obstacles import changed  # only for such a row

            raise changed(self._task.migration.file, walk, batched=False)
        if walk is not None:
            return  # The file ran in batches then, but no batch is committed.
        message = without_stop(row)
        number = reached(message, self._count)
        place, colon, statement = message.partition(":")
        message = foreign(message) if number is None else f"{place}{colon}{foreign(statement)}"
        if not unchanged:
            raise self._unknown_outcome(f"was interrupted at {message}, and has changed since", row)
        index = next((i for i, unit in enumerate(self._units) if unit.number == number), None)
        if index is None:
            raise self._unknown_outcome(
                f"was interrupted at {message}, and it is unknown which of its statements that is", row
            )
        self._restore_session(index, f"was interrupted at {message}", row)
        self._named = self._next = index
        if not self._units[index].begin and self._finished(index):
            self._next += 1
        logs.event(
            logs.WARNING,
            "migration.resumed",
            f"{self._task.migration.file.name} was interrupted at {message}; continuing from there",
            file=self._task.migration.file.name,
            statement=number,
        )

    def _restore_session(self, index: int, what: str, row: str) -> None:
        """Repeat what the units before `index` did to their session. Raises MigrationFailedError if that is unknown."""
        left = left_in_session(self._task.migration.advice.body, self._units[:index])
        unknown = min(filter(None, (left.unknown, self._changed_by_function(left.runs))), default=None)
        if unknown is not None:
            raise self._unknown_outcome(
                f"{what}; what statement {unknown} did to its session is lost, and later statements may depend on it",
                row,
            )
        for setting in left.settings:
            self._send(setting, self._units[index].number)

    def _changed_by_function(self, runs: Iterable[MayHaveRun]) -> int | None:
        """Return the number of the first statement that called a function which may have changed the session."""
        runs = [run for run in runs if run.calls or run.names]
        if not runs:
            return None
        calls = frozenset[str]().union(*(run.calls for run in runs))
        names = frozenset[str]().union(*(run.names for run in runs))
        rows = self._ask(session_state.changing(calls, names))
        functions = {name for kind, name in rows if kind == "function"}
        views = {name for kind, name in rows if kind == "view"}
        return next((run.number for run in runs if functions & run.calls or views & run.names), None)

    def _finished(self, index: int) -> bool:
        """Tell whether a unit that had started finished; if it did not, prepare to run it again.

        Raises MigrationFailedError if this cannot be known, or if running it again could do harm.
        """
        unit = self._units[index]
        if unit.built_index is not None:
            valid = self._index_is_valid(unit)
            if valid is False:
                self._drop_index(unit)
            return valid is True
        refused = self._refused == index and unit.words[:1] not in _COMMIT_BY_THEMSELVES
        if not (refused or repeatable(unit)):
            row = self._progress(index)
            raise self._unknown_outcome(
                f"was interrupted at {without_stop(row)}, and it is unknown whether that took effect", row
            )
        return False

    def _unknown_outcome(self, why: str, row: str) -> MigrationFailedError:
        """Return the error for a file that needs attention; `row` is its row's message, which says where it stopped."""
        file = self._task.migration.file
        failure = MigrationFailedError(
            f"{file.name} {why}",
            remedy="Check which of its statements took effect. Then either finish it by hand and set its row's "
            "status to 'completed'; or remove those statements from the file, or undo them, and delete the row.",
            version=file.number,
            file=file.name,
        )
        if (stopped := stopped_at(row)) is not None and stopped.unit > 1:
            failure.place = row.rpartition("\n")[2]
        return failure

    # Running.

    def _step(self, unit: Unit) -> None:
        """Run the next unit."""
        if unit.begin:
            if self._named is not None and self._named != self._next:
                self._record()
            self._run_inside(unit)
            self._stop_if_misread(unit)
            return
        if self._refused != self._next or not self._finished(self._next):
            self._record(lend=self._timeouts(concurrently=unit.concurrently))
            self._run_alone(unit)
        self._next += 1
        self._stop_if_misread(unit)

    def _run_inside(self, unit: Unit) -> None:
        """Run a unit in a separate transaction, behind the fence, with the row that says what comes next."""
        task = self._task
        transaction_id = self._open(unit.begin, inside=True)
        self.trace.opened(transaction_id)
        if self._send(unit, unit.number, inside=True) != transaction_id:
            raise file_ended_transaction(task)
        self._stop_if_misread(unit, within=True)
        # From here on, only our COMMIT can commit it, together with its row.
        self.trace.closed()
        limits = transactions.limits(task.limit, server_version=self._worker.server_version, role=task.assignment.role)
        parts = (
            # Deferred constraints first, while the file's settings are in effect: its triggers may need them. What the
            # file has changed in its session stays, except behind a pooler, where others would get it.
            session_state.restore(pooled=True) if self._pooled else session_state.CHECK_CONSTRAINTS,
            limits,
            f"SET LOCAL lock_timeout = {task.limit.milliseconds()};",
            # Before the fence is released: the unit may have released this lock.
            "" if self._pooled else self._session_lock,
            task.lease.reassert(),
            writing.kept(self._place, task.kept),
            self._row(self._next + 1),
            "COMMIT",
        )
        try:
            self._worker.query("\n".join(filter(None, parts)), task.patience)
        except StatementError as error:
            # An error in the first of these comes from the file: its deferred constraints.
            behind = error.statement > 0
            raise Refused(task.migration, error, statement_start=unit.start, behind=behind, unit=unit) from error
        self._next += 1
        self._named, self._lent, self._encoding = self._next, None, None
        self._keep_our_encoding()

    def _stop_if_misread(self, unit: Unit, *, within: bool = False) -> None:
        """Raise MigrationFailedError if the unit makes the server read later strings differently from the scanner.

        `within`: check the strings inside the unit instead, which the server has read before its first statement ran.
        """
        misread = None
        if unit.statements and within:
            misread = strings_read_otherwise(self._task, unit.statements[0], unit.start, unit.statements[-1].end)
        elif unit.statements and self._next < len(self._units):
            misread = strings_read_otherwise(self._task, unit.statements[-1], self._units[self._next].start)
        if misread:
            raise misread

    def _run_alone(self, unit: Unit) -> None:
        if unit.words[:1] in _COMMIT_BY_THEMSELVES:
            # The file may create a procedure that uses the row.
            self._task.lease.lend_row(freed=_LOCK_TABLE in self._task.migration.text.lower())
        try:
            self._send(unit, unit.number)
        except Refused as refusal:
            self._refused = self._next
            if unit.built_index is not None and refusal.error.sqlstate != DUPLICATE_TABLE:
                # A failed concurrent build leaves an invalid index, which would be in the way of the next attempt.
                self._drop_invalid(unit)
            raise
        if self._worker.in_transaction:
            file = self._task.migration.file
            self._worker.rollback(Deadline(2 * GRACE))
            raise MigrationFailedError(
                f"{file.name} left a transaction open, and it was rolled back",
                remedy="End it with COMMIT in the same file.",
                version=file.number,
                file=file.name,
            )
        if unit.words[:2] == ("DISCARD", "ALL"):
            self._encoding = None
            if self._as_role:
                self._query(self._as_role)

    def _send(self, piece: Unit | Setting, number: int | None, *, inside: bool = False) -> str | None:
        """Send statements of the file, watched; return the id of the transaction that they ended in, if `inside` one.

        An additional statement asks for that id, as for a file in one transaction: no parser can guarantee that the
        file has not ended our transaction. The server reads our own messages in our encoding, whatever the file's is,
        and the file's strings as the scanner reads them.
        """
        task, worker = self._task, self._worker
        setting = strings.setting(task.migration.advice.readings, piece.start)
        if worker.parameter(strings.SETTING) != setting:
            self._query(f"SET {strings.SETTING} = {setting}")
        before = after = ""
        if inside:
            encoding = f"SET client_encoding = {literal(self._encoding)}; " if self._encoding else ""
            before = "" if self._pooled else f"{session_state.back()} {encoding}"
            after = (
                f"\n;SET LOCAL client_encoding = '{_OUR_ENCODING}'; "
                "SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text"
            )
        last: Result | None = None

        def on_result(result: Result) -> None:
            nonlocal last
            last = result
            if inside:
                self.trace.note(result)

        # A unit that runs alone may commit in between, or may wait for others without blocking anybody.
        task.work_on(number or 1, self._backend_pid, transaction=number or 1, limited=inside)
        worker.on_notice = task.log_notice
        try:
            worker.script(f"{before}{piece.sql}{after}", task.patience, on_result)
        except StatementError as error:
            offset = None if error.position is None else max(piece.start + error.position - len(before), piece.start)
            unit = piece if isinstance(piece, Unit) else None
            raise Refused(task.migration, error, statement_start=piece.start, offset=offset, unit=unit) from error
        finally:
            worker.on_notice = None
            if not inside:
                self._keep_our_encoding()
        value = last.get_value(0, 0) if inside and last is not None else None
        return None if value is None else value.decode()

    # The row.

    def _record(self, lend: Timeouts | None = None) -> None:
        """Commit, behind the fence, which unit is next; if none is left, that the file is completed."""
        self._open(transactions.READ_COMMITTED, lend=lend, lock_timeout_ms=self._task.patience.milliseconds())
        # Before the first statement has run, the file cannot have removed any row.
        kept = "" if self._named is None else writing.kept(self._place, self._task.kept)
        try:
            self._worker.query(f"{kept}{self._row(self._next)}\nCOMMIT", self._task.patience)
        except StatementError as error:
            raise Refused(self._task.migration, error, behind=True) from error
        self._named, self._lent = self._next, lend

    def _row(self, index: int) -> str:
        """Return the statements that write the row: the unit at `index` is next, or none is left."""
        task = self._task
        following = self._units[index] if index < len(self._units) else None
        progress = task.lease.progress(task.following) if following is None else ""
        return (
            writing.row(
                self._place,
                task.migration.file,
                task.assignment.app_version,
                status=COMPLETED if following is None else RUNNING,
                message=None if following is None else self._progress(index),
                milliseconds=round((time.monotonic() - self._began) * 1000),
            )
            + (task.rollout + task.refreshed if following is None else "")
            + progress
        )

    def _progress(self, index: int) -> str:
        """Return the row's message while the unit at `index` is next.

        `reached` reads the part before the colon, people read the part after it, and `stopped_at` reads the last line.
        """
        unit, advice = self._units[index], self._task.migration.advice
        return f"{unit.place(self._count)}: {unit.shown}\n{stop(advice.body, advice, self._units, index)}"

    # The session.

    def _open(
        self, begin: str, *, lend: Timeouts | None = None, lock_timeout_ms: int | None = None, inside: bool = False
    ) -> str:
        """Open a transaction behind the fence, with the file's settings set aside; return its id.

        Each transaction takes the second advisory lock again, as the file may have released it, so that nobody takes
        over between two statements. `lend`: timeouts that stay set after the transaction. `inside`: whether a unit
        follows in it.

        Behind a pooler there is nothing to set aside, as others use the session between two transactions. There the
        fence is enough, because every unit runs in a transaction.
        """
        task = self._task
        statement = session_state.begin_aside(begin, self._timeouts(), self._lent, lend)
        then = (self._session_lock, *transactions.session_survival(self._worker.server_version))
        if self._pooled:
            statement, then = begin, session_state.FRESH if inside else ()
        transaction_id, self._backend_pid = run_ours(
            task,
            lambda: task.lease.open(
                task.deadline,
                lock_timeout_ms=task.ddl_lock_timeout_ms if lock_timeout_ms is None else lock_timeout_ms,
                patience=task.patience,
                statement=statement,
                then=then,
            ),
        )
        return transaction_id

    def _timeouts(self, *, concurrently: bool = False) -> Timeouts:
        """Return the timeouts for a statement of a file that has not set any itself."""
        return Timeouts(0 if concurrently else self._task.ddl_lock_timeout_ms, self._task.deadline.milliseconds())

    @property
    def _session_lock(self) -> str:
        # A process that tests this lock holds it only for an instant, and cannot take over: the fence protects the row.
        return f"SELECT pg_catalog.pg_advisory_lock_shared({session_key(self._place)});"

    @property
    def _as_role(self) -> str:
        role = None if self._pooled else self._task.assignment.role
        return f"SET ROLE {identifier(role)};" if role else ""

    def _keep_our_encoding(self) -> None:
        """Return to our encoding for the next message. The file's encoding is set again for its own statements."""
        encoding = self._worker.parameter("client_encoding") if self._worker.usable else None
        if encoding in (None, _OUR_ENCODING) or self._worker.in_transaction:
            return
        self._encoding = encoding
        self._query(f"SET client_encoding = '{_OUR_ENCODING}'")

    # Indexes whose build was not finished.

    def _index_is_valid(self, unit: Unit) -> bool | None:
        """Tell whether the unit's index is valid; None if it does not exist, or somebody is building it now."""
        if unit.built_index is None:
            return None
        name, table = unit.built_index
        rows = self._ask(
            "SELECT i.indisvalid FROM pg_catalog.pg_class t "
            "JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
            f"WHERE t.oid = {self._oid(table)} AND c.relname = {literal(as_in_catalog(name))} "
            "AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)"
        )
        return rows[0][0] == "t" if rows else None

    def _oid(self, table: str) -> str:
        """Return the oid of a table, named as in the file; `0` if it does not exist."""
        found = self._query(f"SELECT pg_catalog.to_regclass({literal(table)})::pg_catalog.oid")[0][0][0]
        return found or "0"

    def _ask(self, query: str) -> list[tuple[str | None, ...]]:
        """Query the catalog with our own settings."""
        return self._query(f"BEGIN; {session_state.ours(self._task.assignment.role)} {query}; COMMIT")[-2]

    def _drop_index(self, unit: Unit) -> None:
        if unit.built_index is None:
            return
        name, table = unit.built_index
        schema = table.rpartition(".")[0].strip()
        if not schema:
            rows = self._ask(
                "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_class t "
                f"JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace WHERE t.oid = {self._oid(table)}"
            )
            schema = (rows[0][0] if rows else None) or ""
        qualified = f"{schema}.{name}" if schema else name
        logs.event(
            logs.WARNING,
            "migration.invalid_index",
            f"dropping the invalid index {qualified}, left over from an unfinished build",
            file=self._task.migration.file.name,
            index=qualified,
        )
        self._query(f"DROP INDEX CONCURRENTLY IF EXISTS {qualified}")

    def _drop_invalid(self, unit: Unit) -> None:
        try:
            if self._index_is_valid(unit) is False:
                self._drop_index(unit)
        except Refused as refusal:
            logs.event(logs.WARNING, "migration.invalid_index", f"an invalid index was left behind: {refusal}")

    def _query(self, sql: str) -> list[list[tuple[str | None, ...]]]:
        return run_ours(self._task, lambda: self._worker.query(sql, self._task.patience))
