"""The server's answers: rows, notices and errors, for both bindings of libpq."""

from __future__ import annotations

from entrypoint.errors import ConfigurationError, ConnectionLostError
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign, mask_quoted, mask_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol, Self

    from entrypoint.database.libpq import Libpq

    class Answer(Protocol):
        """An error or a notice from libpq, with psycopg's names."""

        def error_field(self, fieldcode: int, /) -> bytes | None:
            """Return a field of the error or notice."""

        def get_error_message(self) -> str:
            """Return all of it as text."""

    class Result(Answer, Protocol):
        """A result from libpq, with psycopg's names."""

        @property
        def status(self) -> int:
            """Return the kind of result: one of ExecStatusType."""

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
            """Return a value as text; None for NULL, or if there is no such row or column."""


Row = tuple[str | None, ...]

SILENCE = "no answer within"
"""The beginning of a failure's text that is ours, not libpq's."""

# The fields of an error or notice (PostgreSQL documentation, "Error and Notice Message Fields").
_SEVERITY = ord("V")
_SQLSTATE = ord("C")
_MESSAGE = ord("M")
_DETAIL = ord("D")
_HINT = ord("H")
_POSITION = ord("P")
_CONTEXT = ord("W")
_ROUTINE = ord("R")


class NotConnected(Exception):  # noqa: N818 - an answer, which the caller passes on
    """An attempt to connect has failed; the text is libpq's."""


class Refusal:
    """An error or a notice from libpq, given by the address of its result in memory."""

    def __init__(self, library: Libpq, pointer: int) -> None:
        self._library = library
        self._pointer: int | None = pointer

    def error_field(self, fieldcode: int, /) -> bytes | None:
        """Return one of the fields."""
        value: bytes | None = self._library.result_error_field(self._pointer, fieldcode)
        return value

    def get_error_message(self) -> str:
        """Return all of it as text."""
        return (self._library.result_error_message(self._pointer) or b"").decode(errors="replace")


class Notice(NamedTuple):
    """A message that the server sent in addition to a result."""

    severity: str
    message: str
    sqlstate: str
    detail: str | None
    hint: str | None

    @classmethod
    def of(cls, result: Answer) -> Self:
        """Read the notice from libpq's `result`."""
        return cls(
            severity=_field(result, _SEVERITY) or "NOTICE",
            message=_words(result, _MESSAGE) or "",
            sqlstate=_field(result, _SQLSTATE) or "",
            detail=_words(result, _DETAIL),
            hint=_words(result, _HINT),
        )

    @property
    def is_error(self) -> bool:
        """Whether it is an error, by its code. Those of success, warnings and notices begin with 00, 01 or 02."""
        return self.sqlstate[:2] not in ("", "00", "01", "02")


class StatementError(Exception):
    """PostgreSQL refused a statement. Has everything it said about that, and which statement it was."""

    def __init__(self, result: Answer, statement: int) -> None:
        """Take libpq's `result`, and the statement's index in the text that was sent, from 0."""
        self.sqlstate = _field(result, _SQLSTATE) or ""
        self.severity = _field(result, _SEVERITY) or "ERROR"
        self.primary = _words(result, _MESSAGE) or foreign(result.get_error_message().strip())
        self.detail = _words(result, _DETAIL)
        self.hint = _words(result, _HINT)
        self.context = _words(result, _CONTEXT)
        position = _field(result, _POSITION)
        self.position = int(position) - 1 if position else None
        """Offset in the text that was sent, in characters."""
        self.statement = statement
        # Imported here, because an up-to-date start meets no errors.
        from entrypoint.database.sqlstate import INSUFFICIENT_PRIVILEGE

        self.hides_rows = self.sqlstate == INSUFFICIENT_PRIVILEGE and _field(result, _ROUTINE) == "check_enable_rls"
        """Whether it was refused because row-level security would hide rows, and `row_security` is off."""
        super().__init__(self.primary)

    def hide(self) -> None:
        """Mask what the server quotes from the statement, as that may be secret.

        A syntax error quotes a word, a wrong value is quoted itself, and the context quotes the whole statement. If the
        statement connects to another server, like CREATE SUBSCRIPTION, the quoted host may be half a password.
        """
        from entrypoint.database.sqlstate import CONNECTION_EXCEPTIONS, DATA_EXCEPTIONS, SYNTAX_ERROR

        if self.sqlstate == SYNTAX_ERROR or self.sqlstate.startswith((CONNECTION_EXCEPTIONS, DATA_EXCEPTIONS)):
            self.primary = mask_quoted(self.primary)
        self.detail = self.detail and mask_values(self.detail)
        self.hint, self.context = self.hint and mask_quoted(self.hint), self.context and mask_quoted(self.context)


# PgBouncer's words when it closes a connection. They are never translated.
_STATEMENT_MODE = "statement pooling mode"
_NO_SERVER_CONNECTION = "query_wait_timeout"
LARGER_POOL = (
    "Give the pool more server connections (PgBouncer: default_pool_size; a replica that migrates needs two), or set "
    "MIGRATION_DATABASE_URL to the server's own address."
)


def connection_lost(reason: str, sqlstate: str | None = None) -> ConnectionLostError | ConfigurationError:
    """Return the error for a connection that has ended. `reason` is our own text, or one made safe by `foreign`."""
    if _STATEMENT_MODE in reason:
        return ConfigurationError(
            f"The pooler is in statement mode, which has no transactions, and migrations need them: {reason}",
            remedy="Switch the pool to transaction or session mode (PgBouncer: pool_mode, for all databases or for "
            "this one), or set MIGRATION_DATABASE_URL to the server's own address.",
        )
    from entrypoint.database.rules import ended_by  # Most starts do not need it.

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
    """Tell whether a notice says that a commit was cancelled while it waited for a synchronous standby.

    The transaction is committed, but only on this server. The notice is recognized by its routine, as its text may be
    in any language, and its code is a general one.
    """
    return _field(result, _ROUTINE) == "SyncRepWaitForLSN"


def no_answer(seconds: float) -> ConnectionLostError:
    """Return the error for an open connection on which no answer came for `seconds`."""
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
    """Return a field made safe for people to read. Fields for decisions are used unchanged."""
    value = _field(result, code)
    return value and foreign(value)
