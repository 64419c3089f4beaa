"""Apply or undo one migration in one transaction: BEGIN and the fence, the file, its ledger row and COMMIT.

This takes three round trips; more if the file is large; two if the next migration's BEGIN and fence follow that COMMIT.
The ledger row is written or removed together with what the file does, or not at all.
"""

from __future__ import annotations

from entrypoint.database import session_state, transactions
from entrypoint.database.answers import StatementError
from entrypoint.errors import ConnectionLostError
from entrypoint.migration.apply.attempt import Refused, ours
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
    from entrypoint.migration.script.strings import Reading
    from entrypoint.migration.script.text import Text

# Characters of a file that go into one message.
_PIECE = 1 << 20
_BEHIND = "\n;SET client_encoding = UTF8; SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text"


def apply(task: Task, trace: Trace) -> None:
    """Commit a file together with its change to the ledger.

    Raises Refused, LeaseLostError or ConnectionLostError; then nothing is committed, unless the file committed
    something itself, which `trace` records. Raises InDoubt if the connection ended during COMMIT.
    """
    transaction_id, backend_pid = begin(task, trace)
    if not execute(task, trace, backend_pid):
        raise file_ended_transaction(task)
    _commit(task, transaction_id)


def begin(task: Task, trace: Trace) -> tuple[str, int]:
    """Open the transaction behind the fence; return its id and the backend that works on it."""
    transaction_id, backend_pid = ours(
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
    """Send the file; tell whether the session is still in the transaction that it was in before.

    It goes as one simple query, or a large one as several; statement by statement where it is doubtful what its
    statements are, how their strings are read, or where they end elsewhere than by the standard. In a `rehearsal`,
    which must not commit, what the parser has not read is doubtful, too. `on_notice`: what to do with the server's
    messages, other than to log them.

    Raises MigrationFailedError if the file has its strings read otherwise in a way that was not foreseen.
    """
    worker, advice = task.lease.worker, task.migration.advice
    source, statements = advice.source, advice.statements
    worker.on_notice = on_notice or task.log_notice
    # That a large text does not is seen when it is checked.
    unseen = isinstance(source, str) and strings.may_be_set_unseen(source, statements)
    doubtful = advice.disputed or advice.odd or unseen
    _have_read(task, strings.SETTING, strings.setting(advice.readings, 0))
    try:
        if doubtful or (rehearsal and not advice.parsed):
            return _send_one_by_one(task, trace, backend_pid)
        if isinstance(source, str):
            pieces = cut(source, statements, advice.readings, len(source) if rehearsal else _PIECE)
        else:
            pieces = tuple(Piece(part.start, part.end, part.first, part.after) for part in source.parts)
        return all(_send(task, piece, trace, backend_pid) == trace.transaction_id for piece in pieces)
    finally:
        worker.on_notice = None


def _send_one_by_one(task: Task, trace: Trace, backend_pid: int) -> bool:
    """Send each statement as a message that the server takes for one or refuses; tell what `execute` does.

    So no COMMIT can hide behind another statement: none begins with it, as those have been refused beforehand.
    """
    worker, migration = task.lease.worker, task.migration
    body, statements = migration.advice.body, migration.advice.statements
    for index, statement in enumerate(statements):
        _have_read(task)
        task.work_on(index + 1, backend_pid)
        try:
            worker.statement(body[statement.start : statement.end], task.patience, trace.note)
        except StatementError as error:
            offset = None if error.position is None else statement.start + error.position
            raise Refused(migration, error, statement_start=statement.start, offset=offset) from error
        following = statements[index + 1].start if index + 1 < len(statements) else len(body)
        if misread := strings_read_otherwise(task, statement, following):
            raise misread
    _have_read(task)
    question = "SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text"
    return bool(ours(task, lambda: worker.query(question, task.patience))[0][0][0] == trace.transaction_id)


def _have_read(task: Task, name: str = "client_encoding", value: str = "UTF8") -> None:
    """Have the server read the next message as the file is read here, whatever the file has set meanwhile.

    What a file sets has no effect on a message that has arrived, so it must have none on the next one either: a file in
    several messages is read as in one. The exception is `strings.SETTING`, which is followed as psql follows it.
    """
    worker = task.lease.worker
    if worker.parameter(name) != value:
        ours(task, lambda: worker.query(f"SET {name} = {value}", task.patience))


def _send(task: Task, piece: Piece, trace: Trace, backend_pid: int) -> str | None:
    """Send a piece of the file as one simple query; return the transaction that the session is in after it, if any."""
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

    _have_read(task)
    task.work_on(done + 1, backend_pid)
    try:
        for message in _messages(migration.advice.source, piece):
            worker.script(message, task.patience, on_result)
    except StatementError as error:
        start = statements[done].start if done < len(statements) else None
        offset = None if error.position is None else piece.start + error.position
        raise Refused(migration, error, statement_start=start, offset=offset) from error
    # Asked first, as it settles nearly all: a large text's statements have to be looked for.
    as_foreseen = worker.parameter(strings.SETTING) == strings.setting(readings, piece.end)
    if not as_foreseen and piece.first < piece.after:
        misread = strings_read_otherwise(task, statements[piece.first], piece.end)
        if misread is not None:
            raise misread
    value = last.get_value(0, 0) if last is not None else None
    return None if value is None else value.decode()


def _messages(source: Text, piece: Piece) -> Iterator[str | bytes]:
    """Yield what is sent for a piece, in one message unless it is large enough for a round trip of its own.

    One more statement behind the file's own tells whether the file has ended our transaction: no parser can promise
    that it has not. And the next message must be read as it is written, before it can say so itself.
    """
    if isinstance(source, str):
        yield f"{source[piece.start : piece.end]}{_BEHIND}"
        return
    content = source.encoded(source.part_at(piece.start))
    if len(content) <= _PIECE:
        yield content + _BEHIND.encode()
        return
    # With what stands behind, it would be in memory twice.
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


def cut(
    body: str, statements: Sequence[Statement], readings: Sequence[Reading] = strings.STANDARD, size: int = _PIECE
) -> tuple[Piece, ...]:
    """Cut a file between its statements into pieces of about `size` characters, each with one reading of its strings.

    The server splits all of a message into statements, and keeps them, before it runs the first: with 200 MB in one
    message that took it 1.7 times as long as the same from psql, and this program 1 GB.
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
    """Put the session back, write or remove the row, show in the lock what comes next, and commit.

    In the same message, open the next migration's transaction, if there is an `upcoming` one.
    """
    lease, assignment = task.lease, task.assignment
    ending = _Ending()
    short, ready = _shorthand(task)
    if short is not None and ready:
        parts = [session_state.restore(pooled=True, locked=False), short.ours(task.limit)]
    else:
        parts = [
            # What is prepared in a pooler's session has to stay.
            session_state.restore(pooled=lease.worker.login_pid != lease.place.backend_pid),
            transactions.limits(task.limit, server_version=lease.worker.server_version, role=assignment.role),
        ]
    if tables.mentions(task.migration.source):
        # It may have replaced our functions, as the earlier system's own script does.
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
        ours(task, lambda: lease.worker.script("\n".join(parts), task.patience, ending.note))
    except ConnectionLostError as lost:
        raise InDoubt(transaction_id, lost) from lost
    except Refused as refused:
        if not ending.committed:
            raise
        ending.fenced = refused.error  # That is about the next one.
    lease.prepared = short is not None
    if upcoming is None:
        return
    if ending.fenced is None:
        # The lease is not ours any more: who asks again learns that.
        lease.worker.rollback(task.patience)
    else:
        lease.opened_ahead(ending.fenced, then=session_state.FRESH, **upcoming.opening)


def _shorthand(task: Task) -> tuple[Shorthand | None, bool]:
    """Return what is prepared for this file's record and the next fence, if anything is; and whether it is already.

    Where the session is ours alone, and this file and the next one are ordinary ones: any other finds no prepared
    statement before it, and none of ours survives it.
    """
    lease = task.lease
    ready, lease.prepared = lease.prepared, False
    direct = lease.worker.login_pid == lease.place.backend_pid
    if task.upcoming is None or task.reverse or not direct or not (suits(task.migration) and suits(task.upcoming)):
        return None, False
    return Shorthand(task), ready


class _Ending:
    """What came of the message that ends a transaction, and may open the next one."""

    def __init__(self) -> None:
        self.committed = False
        self.fenced: tuple[str, int] | StatementError | None = None
        """The next transaction's id and its backend, if it has been opened behind the fence; or why it has not."""

    def note(self, result: Result) -> None:
        """Look at the result of one of the statements."""
        if not self.committed:
            self.committed = result.command_status == b"COMMIT"
        elif result.nfields == 2 and result.ntuples == 1:
            self.fenced = (result.get_value(0, 0) or b"").decode(), int(result.get_value(0, 1) or 0)
