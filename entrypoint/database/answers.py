"""What the server answers: rows, notices and errors, whichever way its answers were read."""

from __future__ import annotations

from entrypoint.errors import ConfigurationError, ConnectionLostError
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign, mask_quoted, mask_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, Self

    from entrypoint.database.libpq import Libpq

    class Answer(Protocol):
        """What libpq says of an error or a notice, as psycopg has it."""

        def error_field(self, fieldcode: int, /) -> bytes | None:
            """Return a field of an error or a notice."""

        def get_error_message(self) -> str:
            """Return all of it as a text."""

    class Result(Answer, Protocol):
        """A result of libpq's, as psycopg has it."""

        @property
        def status(self) -> int:
            """Return what kind of result it is: one of ExecStatusType."""

        @property
        def command_status(self) -> bytes | None:
            """Return the command's tag."""

        @property
        def ntuples(self) -> int:
            """Return the number of its rows."""

        @property
        def nfields(self) -> int:
            """Return the number of its columns."""

        def get_value(self, row_number: int, column_number: int, /) -> bytes | None:
            """Return a value as text, None for NULL or if there is no such row or column."""


Row = tuple[str | None, ...]

SILENCE = "no answer within"
"""How a failure begins that is told in our own words, not libpq's."""

# The fields of an error or a notice: PostgreSQL's documentation, "Error and Notice Message Fields".
_SEVERITY = ord("V")
_SQLSTATE = ord("C")
_MESSAGE = ord("M")
_DETAIL = ord("D")
_HINT = ord("H")
_POSITION = ord("P")
_CONTEXT = ord("W")
_ROUTINE = ord("R")


class NotConnected(Exception):  # noqa: N818 - an answer, which the caller passes on
    """The server, or the way to it, said no; the text is libpq's."""


class Refusal:
    """A result of libpq's that is an error or a notice, known by its address in memory."""

    def __init__(self, library: Libpq, pointer: int) -> None:
        self._library = library
        self._pointer: int | None = pointer

    def error_field(self, fieldcode: int, /) -> bytes | None:
        """Return one of the fields."""
        value: bytes | None = self._library.result_error_field(self._pointer, fieldcode)
        return value

    def get_error_message(self) -> str:
        """Return all of it as a text."""
        return (self._library.result_error_message(self._pointer) or b"").decode(errors="replace")


class Notice(NamedTuple):
    """A message that the server sent beside a result."""

    severity: str
    message: str
    sqlstate: str
    detail: str | None
    hint: str | None

    @classmethod
    def of(cls, result: Answer) -> Self:
        """Read it from libpq's `result`."""
        return cls(
            severity=_field(result, _SEVERITY) or "NOTICE",
            message=_words(result, _MESSAGE) or "",
            sqlstate=_field(result, _SQLSTATE) or "",
            detail=_words(result, _DETAIL),
            hint=_words(result, _HINT),
        )

    @property
    def is_error(self) -> bool:
        """Whether it is an error, by its code: those of success, warnings and notices begin otherwise."""
        return self.sqlstate[:2] not in ("", "00", "01", "02")


class StatementError(Exception):
    """PostgreSQL refused a statement. All that it said about it, and which statement it was."""

    def __init__(self, result: Answer, statement: int) -> None:
        """Take libpq's `result` and the number of the `statement` in what was sent, counted from 0."""
        self.sqlstate = _field(result, _SQLSTATE) or ""
        self.severity = _field(result, _SEVERITY) or "ERROR"
        self.primary = _words(result, _MESSAGE) or foreign(result.get_error_message().strip())
        self.detail = _words(result, _DETAIL)
        self.hint = _words(result, _HINT)
        self.context = _words(result, _CONTEXT)
        position = _field(result, _POSITION)
        self.position = int(position) - 1 if position else None
        """Offset in characters in the text that was sent."""
        self.statement = statement
        # Not for the start that is up to date: it meets no errors.
        from entrypoint.database.sqlstate import INSUFFICIENT_PRIVILEGE

        self.hides_rows = self.sqlstate == INSUFFICIENT_PRIVILEGE and _field(result, _ROUTINE) == "check_enable_rls"
        """Whether row-level security would have left rows out, and `row_security` is off."""
        super().__init__(self.primary)

    def hide(self) -> None:
        """Mask what the server quotes of the statement: in a syntax error a word of it, in the context all of it.

        Where a value is wrong, it is the value. Where the statement was to connect elsewhere, as CREATE SUBSCRIPTION
        is, the word may be a host that is half a password.
        """
        from entrypoint.database.sqlstate import CONNECTION_EXCEPTIONS, DATA_EXCEPTIONS, SYNTAX_ERROR

        if self.sqlstate == SYNTAX_ERROR or self.sqlstate.startswith((CONNECTION_EXCEPTIONS, DATA_EXCEPTIONS)):
            self.primary = mask_quoted(self.primary)
        self.detail = self.detail and mask_values(self.detail)
        self.hint, self.context = self.hint and mask_quoted(self.hint), self.context and mask_quoted(self.context)


# What PgBouncer says when it closes a connection; it has no other language.
_STATEMENT_MODE = "statement pooling mode"
_NO_SERVER_CONNECTION = "query_wait_timeout"
LARGER_POOL = (
    "Give the pool more server connections (PgBouncer: default_pool_size; a replica that migrates needs two), or set "
    "MIGRATION_DATABASE_URL to the server's own address."
)


def connection_lost(reason: str, sqlstate: str | None = None) -> ConnectionLostError | ConfigurationError:
    """Return the error for a connection that has ended, for a `reason` in words: ours, or `foreign` ones."""
    if _STATEMENT_MODE in reason:
        return ConfigurationError(
            f"The pooler is in statement mode, which has no transactions, and migrations need them: {reason}",
            remedy="Switch the pool to transaction or session mode (PgBouncer: pool_mode, for all databases or for "
            "this one), or set MIGRATION_DATABASE_URL to the server's own address.",
        )
    from entrypoint.database.rules import ended_by  # Not for a start at which nothing is lost.

    setting, remedy = ended_by(reason, sqlstate or None) or (None, None)
    lost = ConnectionLostError(
        f"The connection to the database was lost: {reason}",
        remedy=remedy or "Check the server's log and the network in between.",
        sqlstate=sqlstate or None,
        setting=setting,
    )
    if reason == _NO_SERVER_CONNECTION:
        lost.starved = True
        lost.message = f"The pooler had no free server connection: {reason}"
        lost.remedy = LARGER_POOL
    return lost


def gave_standby_up(result: Answer) -> bool:
    """Tell whether a notice says that a commit has waited for a synchronous standby, and has been cancelled in that.

    It is committed, and only here. The text may be in any language, and the code is that of any warning.
    """
    return _field(result, _ROUTINE) == "SyncRepWaitForLSN"


def no_answer(seconds: float) -> ConnectionLostError:
    """Return the error for an open connection on which there was no answer for so long."""
    lost = ConnectionLostError(
        f"The connection to the database was lost: no answer within {seconds:.1f} s",
        remedy="The server accepted the connection and then stopped answering. Check its log and the network in "
        f"between. Behind a pooler, all server connections may be in use. {LARGER_POOL}",
    )
    lost.starved = True
    return lost


def _field(result: Answer, code: int) -> str | None:
    value = result.error_field(code)
    return None if value is None else value.decode("utf-8", "replace")


def _words(result: Answer, code: int) -> str | None:
    """Return a field that people read; what the program decides by is left as it came."""
    value = _field(result, code)
    return value and foreign(value)
