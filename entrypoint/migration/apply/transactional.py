"""Applies or reverses one migration in one transaction: BEGIN and the fence, the file, its ledger row and COMMIT.

This takes three round trips; more if the file is large; two if the same message also opens the next migration's
transaction. The ledger row is written or removed together with the file's own changes, or not at all.
"""

from __future__ import annotations

from entrypoint.database import session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.errors import ConnectionLostError
from entrypoint.migration.apply.attempt import Refused, run_ours
from entrypoint.migration.apply.doubt import InDoubt
from entrypoint.migration.apply.shorthand import Shorthand, suits
from entrypoint.migration.apply.standing import file_ended_transaction, strings_read_otherwise
from entrypoint.migration.ledger import tables, writing
from entrypoint.migration.script import strings
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from entrypoint.database.answers import Notice, Result
    from entrypoint.migration.apply.attempt import Task
    from entrypoint.migration.apply.standing import Trace
    from entrypoint.migration.script.scanner import Statement
    from entrypoint.migration.script.strings import StringReading
    from entrypoint.migration.script.text import Text

# About how many characters of a file are sent in one message.
_PIECE = 1 << 20
_BEHIND = "\n;SET client_encoding = UTF8; SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text"


def apply(task: Task, trace: Trace) -> None:
    """Run a file and commit it together with its change to the ledger.

    Raises Refused, LeaseLostError or ConnectionLostError; then nothing is committed, unless the file committed
    something itself, which `trace` records. Raises InDoubt if the connection ended during COMMIT.
    """
    transaction_id, backend_pid = begin(task, trace)
    if not execute(task, trace, backend_pid):
        raise file_ended_transaction(task)
    _commit(task, transaction_id)


def begin(task: Task, trace: Trace) -> tuple[str, int]:
    """Open the transaction behind the fence; return its id and the backend that works on it."""
    transaction_id, backend_pid = run_ours(
        task,
        lambda: task.lease.open(task.deadline, patience=task.patience, then=session_state.FRESH, **task.opening),
    )
    trace.opened(transaction_id)
    return transaction_id, backend_pid


def execute(
    task: Task,
    trace: Trace,
    backend_pid: int,
    on_notice: Callable[[Notice], None] | None = None,
    *,
    rehearsal: bool = False,
) -> bool:
    """Send the file; tell whether the session is still in the same transaction afterwards.

    The file is sent as one simple query; a large file as several. It is sent statement by statement if we cannot be
    certain what its statements are or how the server reads its strings, or if its strings do not end as in the SQL
    standard. In a `rehearsal`, which must not commit, this also applies to a text that the parser has not read.
    `on_notice`: handles the server's messages instead of logging them.

    Raises MigrationFailedError if the file changes how its strings are read in a way that was not foreseen.
    """
    worker, advice = task.lease.worker, task.migration.advice
    source, statements = advice.source, advice.statements
    worker.on_notice = on_notice or task.log_notice
    # A large text does not do this: that was checked when it was read.
    unseen = isinstance(source, str) and strings.may_be_set_unseen(source, statements)
    doubtful = advice.disputed or advice.odd_strings or unseen
    _set_for_reading(task, strings.SETTING, strings.setting(advice.readings, 0))
    try:
        if doubtful or (rehearsal and not advice.parsed):
            return _send_one_by_one(task, trace, backend_pid)
        if isinstance(source, str):
            pieces = cut_into_pieces(source, statements, advice.readings, len(source) if rehearsal else _PIECE)
        else:
            pieces = tuple(Piece(part.start, part.end, part.first, part.after) for part in source.parts)
        return all(_send(task, piece, trace, backend_pid) == trace.transaction_id for piece in pieces)
    finally:
        worker.on_notice = None


def _send_one_by_one(task: Task, trace: Trace, backend_pid: int) -> bool:
    """Send each statement in a way that the server refuses if it is more than one; return what `execute` returns.

    So no COMMIT can hide behind another statement. Statements that begin with COMMIT have been refused before.
    """
    worker, migration = task.lease.worker, task.migration
    body, statements = migration.advice.body, migration.advice.statements
    for index, statement in enumerate(statements):
        _set_for_reading(task)
        task.work_on(index + 1, backend_pid)
        try:
            worker.statement(body[statement.start : statement.end], task.patience, trace.note)
        except StatementError as error:
            offset = None if error.position is None else statement.start + error.position
            raise Refused(migration, error, statement_start=statement.start, offset=offset) from error
        following = statements[index + 1].start if index + 1 < len(statements) else len(body)
        if misread := strings_read_otherwise(task, statement, following):
            raise misread
    _set_for_reading(task)
    question = "SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text"
    return bool(run_ours(task, lambda: worker.query(question, task.patience))[0][0][0] == trace.transaction_id)


def _set_for_reading(task: Task, name: str = "client_encoding", value: str = "UTF8") -> None:
    """Set a parameter that affects how the server reads the next message, whatever the file has set meanwhile.

    A file's settings do not affect a message that has arrived. So that a file in several messages is read as in one,
    they must not affect the next message either. The exception is `strings.SETTING`, which works as in psql.
    """
    worker = task.lease.worker
    if worker.parameter(name) != value:
        run_ours(task, lambda: worker.query(f"SET {name} = {value}", task.patience))


def _send(task: Task, piece: Piece, trace: Trace, backend_pid: int) -> str | None:
    """Send a piece of the file as one simple query; return the id of the transaction that is then open, if any."""
    worker, migration = task.lease.worker, task.migration
    statements, readings = migration.advice.statements, migration.advice.readings
    done = piece.first
    last: Result | None = None

    def on_result(result: Result) -> None:
        nonlocal done, last
        last = result
        trace.note(result)
        if done < piece.after:
            done += 1
            task.work_on(done + 1, backend_pid)

    _set_for_reading(task)
    task.work_on(done + 1, backend_pid)
    try:
        for message in _messages(migration.advice.source, piece):
            worker.script(message, task.patience, on_result)
    except StatementError as error:
        start = statements[done].start if done < len(statements) else None
        offset = None if error.position is None else piece.start + error.position
        raise Refused(migration, error, statement_start=start, offset=offset) from error
    # This comes first, as it decides nearly all cases: finding a large text's statements takes time.
    as_foreseen = worker.parameter(strings.SETTING) == strings.setting(readings, piece.end)
    if not as_foreseen and piece.first < piece.after:
        misread = strings_read_otherwise(task, statements[piece.first], piece.end)
        if misread is not None:
            raise misread
    value = last.get_value(0, 0) if last is not None else None
    return None if value is None else value.decode()


def _messages(source: Text, piece: Piece) -> Iterator[str | bytes]:
    """Yield the messages for a piece: one, or two if it is so large that another round trip does not matter.

    A statement after the file's own asks whether the file has ended our transaction: no parser can guarantee that it
    has not. Another one resets the encoding, so that the server reads the next message correctly.
    """
    if isinstance(source, str):
        yield f"{source[piece.start : piece.end]}{_BEHIND}"
        return
    content = source.encoded(source.part_at(piece.start))
    if len(content) <= _PIECE:
        yield content + _BEHIND.encode()
        return
    # Adding our statements would copy it, so that it would be in memory twice.
    yield content
    del content
    yield _BEHIND


class Piece(NamedTuple):
    """A part of a file that is sent as one message: characters from `start` to `end`."""

    start: int
    end: int
    first: int
    """How many statements come before it."""
    after: int
    """How many statements there are up to its end."""


def cut_into_pieces(
    body: str, statements: Sequence[Statement], readings: Sequence[StringReading] = strings.STANDARD, size: int = _PIECE
) -> tuple[Piece, ...]:
    """Cut a file between statements into pieces of about `size` characters, each with one way to read its strings.

    The server splits a whole message into statements, and keeps them, before it runs the first. With 200 MB in one
    message, it took 1.7 times as long as with psql, and this program needed 1 GB of memory.
    """
    turns = [reading.start for reading in readings[1:]]
    pieces, start, first = [], 0, 0
    for index, statement in enumerate(statements):
        turned = bool(turns) and turns[0] <= statement.start
        while turns and turns[0] <= statement.start:
            turns.pop(0)
        full = statement.start - start >= size
        if index > first and (full or turned):
            pieces.append(Piece(start, statement.start, first, index))
            start, first = statement.start, index
    return (*pieces, Piece(start, len(body), first, len(statements)))


def _commit(task: Task, transaction_id: str) -> None:
    """Reset the session, write or remove the row, show in the lock's row what comes next, and commit.

    If there is an `upcoming` migration, the same message also opens its transaction.
    """
    lease, assignment = task.lease, task.assignment
    ending = _Ending()
    short, ready = _shorthand(task)
    if short is not None and ready:
        parts = [session_state.restore(pooled=True, locked=False), short.ours(task.limit)]
    else:
        parts = [
            # A pooler's own prepared statements must stay.
            session_state.restore(pooled=lease.worker.login_pid != lease.place.backend_pid),
            transactions.limits(task.limit, server_version=lease.worker.server_version, role=assignment.role),
        ]
    if tables.mentions(task.migration.source):
        # The file may have replaced our functions, as the earlier system's own script does.
        parts += ["SET LOCAL client_min_messages = warning;", tables.ddl(lease.place)]
    if short is not None:
        parts += [*(() if ready else (short.prepare(),)), *short.record(task)]
    else:
        kept = writing.kept(lease.place, task.kept)
        parts += [lease.reassert(), kept, task.record, lease.progress(task.following)]
    parts.append("COMMIT")
    upcoming = None if task.upcoming is None else task._replace(migration=task.upcoming)
    if upcoming is not None:
        parts[-1] = "COMMIT;"
        parts.append(lease.opening(upcoming.deadline, then=session_state.FRESH, prepared=short, **upcoming.opening))
    try:
        run_ours(task, lambda: lease.worker.script("\n".join(parts), task.patience, ending.note))
    except ConnectionLostError as lost:
        raise InDoubt(transaction_id, lost) from lost
    except Refused as refused:
        if not ending.committed:
            raise
        ending.fenced = refused.error  # The error is about the next transaction.
    lease.prepared = short is not None
    if upcoming is None:
        return
    if ending.fenced is None:
        # The lease is no longer ours. The next check will find out.
        lease.worker.rollback(task.patience)
    else:
        lease.opened_ahead(ending.fenced, then=session_state.FRESH, **upcoming.opening)


def _shorthand(task: Task) -> tuple[Shorthand | None, bool]:
    """Return the prepared statements for this file's record and the next fence, and whether they exist already.

    They are only used if the session is ours alone, and both this file and the next are ordinary. Any other file finds
    no prepared statements, and ours are gone after it.
    """
    lease = task.lease
    ready, lease.prepared = lease.prepared, False
    direct = lease.worker.login_pid == lease.place.backend_pid
    if task.upcoming is None or task.reverse or not direct or not (suits(task.migration) and suits(task.upcoming)):
        return None, False
    return Shorthand(task), ready


class _Ending:
    """The results of the message that ends a transaction, and may open the next one."""

    def __init__(self) -> None:
        self.committed = False
        self.fenced: tuple[str, int] | StatementError | None = None
        """The next transaction's id and its backend, if it has been opened behind the fence; or the error if not."""

    def note(self, result: Result) -> None:
        """Evaluate the result of one of the statements."""
        if not self.committed:
            self.committed = result.command_status == b"COMMIT"
        elif result.nfields == 2 and result.ntuples == 1:
            self.fenced = (result.get_value(0, 0) or b"").decode(), int(result.get_value(0, 1) or 0)
