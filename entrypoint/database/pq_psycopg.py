"""psycopg's binding of libpq, for systems where ours does not work: a Python without `_ctypes`, or a built-in libpq.

Nothing else imports psycopg: its import would be most of the cost of a migration of a few files. Here libpq's texts
about a failed login have no SQLSTATEs, because psycopg cannot ask for them.
"""

from __future__ import annotations

import select

from entrypoint import logs, signals
from entrypoint.database.answers import SILENCE, NotConnected
from entrypoint.database.pq import Option, PqError
from entrypoint.database.quoting import conninfo
from entrypoint.redaction import foreign

if signals.installed():
    logs.adopt_other_packages()

import psycopg
from psycopg import pq

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from psycopg.pq.abc import PGconn

    from entrypoint.database import libpq
    from entrypoint.database.answers import Answer, Result
    from entrypoint.deadline import Deadline

    _T = TypeVar("_T")


# Milliseconds to wait for the answer to a cancel request. The callers wait less.
_CANCELLING = 5_000


class Binding:
    """The libpq that psycopg has loaded."""

    def parse(self, address: str) -> dict[str, str]:
        """Return the parameters in an address. Bytes that are not UTF-8 become surrogates. Raises PqError."""
        options = _call(lambda: pq.Conninfo.parse(_bytes(address)))
        return {option.keyword.decode(): _value(option.val) for option in options if option.val is not None}

    def defaults(self) -> dict[str, str | None]:
        """Return all parameters that exist, with their default values."""
        options = pq.Conninfo.get_defaults()
        return {option.keyword.decode(): None if option.val is None else _value(option.val) for option in options}

    def connect(self, parameters: Mapping[str, object], deadline: Deadline) -> Connection:
        """Connect. Blocks while names are resolved, whatever the deadline. Raises NotConnected."""
        address = conninfo({name: str(value) for name, value in parameters.items() if value is not None})
        pgconn = pq.PGconn.connect_start(_bytes(address))
        try:
            _log_in(pgconn, deadline)
        except BaseException:
            pgconn.finish()
            raise
        return Connection(pgconn)

    def take(self, connection: libpq.Connection) -> None:
        """Close the connection: psycopg cannot use one that it did not make."""
        connection.close()


def _log_in(pgconn: PGconn, deadline: Deadline) -> None:
    # The documentation says to begin as if PQconnectPoll had returned PGRES_POLLING_WRITING.
    step = pq.PollingStatus.FAILED if pgconn.status == pq.ConnStatus.BAD else pq.PollingStatus.WRITING
    while step != pq.PollingStatus.OK:
        if step == pq.PollingStatus.FAILED:
            raise NotConnected(pgconn.error_message.decode(errors="replace"))
        poll = select.poll()
        poll.register(
            _call(lambda: pgconn.socket), select.POLLIN if step == pq.PollingStatus.READING else select.POLLOUT
        )
        if not poll.poll(deadline.remaining() * 1000):
            raise NotConnected(f"{SILENCE} {deadline.budget:g} s")
        step = pq.PollingStatus(pgconn.connect_poll())


class Connection:
    """A connection of psycopg's low-level module `pq`."""

    def __init__(self, pgconn: PGconn) -> None:
        """Take a connection that is logged in."""
        self._pgconn = pgconn
        self.notice_handler: Callable[[Answer], None] | None = None
        pgconn.nonblocking = 1
        pgconn.notice_handler = self._receive

    @property
    def backend_pid(self) -> int:
        """The server process that answered the login."""
        return self._pgconn.backend_pid

    @property
    def server_version(self) -> int:
        """A number, such as 160014 for 16.14."""
        return self._pgconn.server_version

    @property
    def transaction_status(self) -> int:
        """One of the transaction states; UNKNOWN if the connection is lost."""
        return self._pgconn.transaction_status

    @property
    def socket(self) -> int:
        """The descriptor to wait on. Raises PqError if there is none."""
        return _call(lambda: self._pgconn.socket)

    def host(self) -> str:
        """Return the host that we are connected to, or the directory of its socket."""
        return self._pgconn.host.decode(errors="replace")

    def address(self) -> str:
        """Return that host's IP address; "" for a Unix socket."""
        return self._pgconn.hostaddr.decode(errors="replace")

    def port(self) -> str:
        """Return the host's port."""
        return self._pgconn.port.decode(errors="replace")

    def database(self) -> str:
        """Return the database's name."""
        return self._pgconn.db.decode(errors="replace")

    def user(self) -> str:
        """Return the name of the user who logged in."""
        return self._pgconn.user.decode(errors="replace")

    def password(self) -> str:
        """Return the password that was used, wherever it came from."""
        return _value(self._pgconn.password)

    def options(self) -> list[Option]:
        """Return the options that were in effect when the connection was made."""
        return [
            Option(
                option.keyword.decode(),
                None if option.val is None else _value(option.val),
                None if option.compiled is None else _value(option.compiled),
                option.dispchar == b"*",
            )
            for option in self._pgconn.info
        ]

    def parameter_status(self, name: str) -> str | None:
        """Return a setting that the server reports."""
        try:
            value = self._pgconn.parameter_status(name.encode())
        except psycopg.OperationalError:  # the connection is closed
            return None
        return None if value is None else value.decode()

    def send_query(self, sql: bytes) -> None:
        """Start sending one or more statements."""
        _call(lambda: self._pgconn.send_query(sql))

    def send_single(self, sql: bytes) -> None:
        """Start sending a single statement; the server refuses a text with more than one."""
        _call(lambda: self._pgconn.send_query_params(sql, None))

    def take_rows_in_parts(self, rows: int) -> None:
        """Return the rows of what was just sent as they arrive, `rows` at a time (before libpq 17, singly)."""
        try:
            self._pgconn.set_chunked_rows_mode(rows)
        except psycopg.NotSupportedError:  # libpq before 17
            _call(self._pgconn.set_single_row_mode)

    def flush(self) -> bool:
        """Go on sending; return whether something is left to send."""
        return bool(_call(self._pgconn.flush))

    def consume_input(self) -> None:
        """Read what has arrived."""
        _call(self._pgconn.consume_input)

    def is_busy(self) -> bool:
        """Return whether `get_result` would block."""
        return bool(_call(self._pgconn.is_busy))

    def get_result(self) -> Result | None:
        """Return the next result; None at the end."""
        return _call(self._pgconn.get_result)

    def put_copy_end(self, reason: str) -> None:
        """Make a COPY FROM STDIN fail with `reason`."""
        _call(lambda: self._pgconn.put_copy_end(reason.encode()))

    def cancelling(self) -> Callable[[], None]:
        """Return a function that asks the server to cancel. It may block, works in any thread, and never raises."""
        try:
            request = self._pgconn.cancel_conn()
        except psycopg.NotSupportedError:  # libpq before 17; psycopg holds the interpreter lock in this call
            return _quietly(self._pgconn.get_cancel().cancel)
        except psycopg.Error:
            return lambda: None

        def cancel() -> None:
            request.start()
            while (step := request.poll()) not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
                poll = select.poll()
                poll.register(request.socket, select.POLLIN if step == pq.PollingStatus.READING else select.POLLOUT)
                if not poll.poll(_CANCELLING):
                    return

        return _quietly(cancel)

    def finish(self) -> None:
        """Close the connection properly."""
        self._pgconn.finish()

    def _receive(self, result: Answer) -> None:
        if self.notice_handler is not None:
            self.notice_handler(result)


def _quietly(step: Callable[[], None]) -> Callable[[], None]:
    def work() -> None:
        try:
            step()
        except psycopg.Error:
            return

    return work


def _call(step: Callable[[], _T]) -> _T:
    try:
        return step()
    except psycopg.Error as error:
        raise PqError(foreign(str(error))) from None


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _value(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
