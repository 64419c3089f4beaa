"""What a session needs from libpq. Both bindings, `pq_ctypes` and `pq_psycopg`, provide it.

The names are those of libpq and psycopg, so their documentation applies. Errors are a `PqError` with libpq's text.
"""

from __future__ import annotations

from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from entrypoint.database import libpq
    from entrypoint.database.answers import Answer, Result
    from entrypoint.deadline import Deadline

    class Connection(Protocol):
        """A connection on which no call blocks, except the function that `cancelling` returns."""

        notice_handler: Callable[[Answer], None] | None
        """Called by libpq, inside `is_busy` or `get_result`; it must not raise."""

        @property
        def backend_pid(self) -> int:
            """Return the server process that answered the login."""

        @property
        def server_version(self) -> int:
            """Return 160014 for 16.14."""

        @property
        def transaction_status(self) -> int:
            """Return one of the transaction states below; UNKNOWN if the connection is lost."""

        @property
        def socket(self) -> int:
            """Return the descriptor to wait on. Raises PqError if there is none."""

        def host(self) -> str:
            """Return the host that we are connected to, or the directory of its socket."""

        def address(self) -> str:
            """Return that host's IP address; "" for a Unix socket."""

        def port(self) -> str:
            """Return the host's port."""

        def database(self) -> str:
            """Return the database's name."""

        def user(self) -> str:
            """Return the name of the user who logged in."""

        def password(self) -> str:
            """Return the password that was used, wherever it came from."""

        def options(self) -> list[Option]:
            """Return the options that were in effect when the connection was made."""

        def parameter_status(self, name: str) -> str | None:
            """Return a setting that the server reports."""

        def send_query(self, sql: bytes) -> None:
            """Start sending one or more statements."""

        def send_single(self, sql: bytes) -> None:
            """Start sending a single statement; the server refuses a text with more than one."""

        def take_rows_in_parts(self, rows: int) -> None:
            """Return the rows of what was just sent as they arrive, `rows` at a time (before libpq 17, singly)."""

        def flush(self) -> bool:
            """Go on sending; return whether something is left to send."""

        def consume_input(self) -> None:
            """Read what has arrived."""

        def is_busy(self) -> bool:
            """Return whether `get_result` would block."""

        def get_result(self) -> Result | None:
            """Return the next result; None at the end."""

        def put_copy_end(self, reason: str) -> None:
            """Make a COPY FROM STDIN fail with `reason`."""

        def cancelling(self) -> Callable[[], None]:
            """Return a function that asks the server to cancel. It may block, works in any thread, and never raises."""

        def finish(self) -> None:
            """Close the connection properly."""

    class Binding(Protocol):
        """A binding of libpq."""

        def parse(self, address: str) -> dict[str, str]:
            """Return the parameters in an address. Bytes that are not UTF-8 become surrogates. Raises PqError."""

        def defaults(self) -> dict[str, str | None]:
            """Return all parameters that exist, with their default values."""

        def connect(self, parameters: Mapping[str, object], deadline: Deadline) -> Connection:
            """Connect. Blocks while names are resolved, whatever the deadline. Raises NotConnected."""

        def take(self, connection: libpq.Connection) -> Connection | None:
            """Take over a connection that is logged in. If that is impossible, close it and return None."""


# From libpq-fe.h: ExecStatusType, PGTransactionStatusType.
EMPTY_QUERY, COMMAND_OK, TUPLES_OK, COPY_OUT, COPY_IN, BAD_RESPONSE, _, FATAL_ERROR, COPY_BOTH = range(9)
PIPELINE_ABORTED = 11
IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)


class PqError(Exception):
    """A call to libpq has failed; the text is libpq's."""


class Option(NamedTuple):
    """One of libpq's parameters."""

    name: str
    value: str | None
    compiled: str | None
    """The compiled-in default."""
    secret: bool
