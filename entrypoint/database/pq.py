"""What a session needs of libpq, whichever way it is reached: `pq_ctypes` and `pq_psycopg` have it.

The names are libpq's and psycopg's, so that their documentation is ours. What goes wrong is a `PqError`, whose text is
libpq's.
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
        """A connection on which no call waits, except `cancelling`'s."""

        notice_handler: Callable[[Answer], None] | None
        """Called by libpq, in the middle of `is_busy` or `get_result`; it must not raise."""

        @property
        def backend_pid(self) -> int:
            """Return the server process that answered the login."""

        @property
        def server_version(self) -> int:
            """Return 160014 for 16.14."""

        @property
        def transaction_status(self) -> int:
            """Return one of the transaction states below; UNKNOWN for a connection that is no more."""

        @property
        def socket(self) -> int:
            """Return the descriptor to wait on. Raises PqError if there is none any more."""

        def host(self) -> str:
            """Return the host that let us in, or the directory of its socket."""

        def address(self) -> str:
            """Return that host's numeric address, "" for a socket of Unix."""

        def port(self) -> str:
            """Return its port."""

        def database(self) -> str:
            """Return the database's name."""

        def user(self) -> str:
            """Return the name of the user who logged in."""

        def password(self) -> str:
            """Return the password that was used, wherever it came from."""

        def options(self) -> list[Option]:
            """Return what was in effect when the connection was made."""

        def parameter_status(self, name: str) -> str | None:
            """Return a setting as the server has reported it."""

        def send_query(self, sql: bytes) -> None:
            """Begin to send one or more statements."""

        def send_single(self, sql: bytes) -> None:
            """Begin to send what the server is to take for one statement or refuse."""

        def take_rows_in_parts(self, rows: int) -> None:
            """Let libpq hand over the rows of what has just been sent as they come, so many at once if it can."""

        def flush(self) -> bool:
            """Send on; return whether something is left to send."""

        def consume_input(self) -> None:
            """Read what has arrived."""

        def is_busy(self) -> bool:
            """Return whether `get_result` would have to wait."""

        def get_result(self) -> Result | None:
            """Return the next result; None at the end."""

        def put_copy_end(self, reason: str) -> None:
            """End a COPY FROM STDIN, as failed for a `reason`."""

        def cancelling(self) -> Callable[[], None]:
            """Return what asks the server to cancel; it may wait, in any thread, and raises nothing."""

        def finish(self) -> None:
            """Say good-bye to the server and close."""

    class Binding(Protocol):
        """A way to libpq."""

        def parse(self, address: str) -> dict[str, str]:
            """Return the parameters in an address. Raises PqError; what is not UTF-8 is in surrogates."""

        def defaults(self) -> dict[str, str | None]:
            """Return all parameters that there are, with their values where an address sets none."""

        def connect(self, parameters: Mapping[str, object], deadline: Deadline) -> Connection:
            """Connect. Blocks, as long as name resolution takes. Raises NotConnected."""

        def take(self, connection: libpq.Connection) -> Connection | None:
            """Go on with a connection that is logged in; if that cannot be, close it and return None."""


# From libpq-fe.h: ExecStatusType, PGTransactionStatusType.
EMPTY_QUERY, COMMAND_OK, TUPLES_OK, COPY_OUT, COPY_IN, BAD_RESPONSE, _, FATAL_ERROR, COPY_BOTH, SINGLE_TUPLE = range(10)
PIPELINE_ABORTED, TUPLES_CHUNK = 11, 12
IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN = range(5)


class PqError(Exception):
    """A call of libpq's failed; the text is libpq's."""


class Option(NamedTuple):
    """One of libpq's parameters."""

    name: str
    value: str | None
    compiled: str | None
    """What it would be if nobody said anything."""
    secret: bool
