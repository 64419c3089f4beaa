"""psycopg's binding of libpq, for where ours cannot be had: a Python without `_ctypes`, a libpq that is built in.

Nothing else imports psycopg, whose import is most of what a migration of a few files would cost. libpq's texts about a
failed login come without SQLSTATEs here, as psycopg cannot ask for them.
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


# Milliseconds, for a server that does not answer a request to cancel. Nobody waits so long for that.
_CANCELLING = 5_000


class Binding:
    """libpq, as psycopg has loaded it."""

    def parse(self, address: str) -> dict[str, str]:
        """Return the parameters in an address. Raises PqError; what is not UTF-8 is in surrogates."""
        options = _call(lambda: pq.Conninfo.parse(_bytes(address)))
        return {option.keyword.decode(): _value(option.val) for option in options if option.val is not None}

    def defaults(self) -> dict[str, str | None]:
        """Return all parameters that there are, with their values where an address sets none."""
        options = pq.Conninfo.get_defaults()
        return {option.keyword.decode(): None if option.val is None else _value(option.val) for option in options}

    def connect(self, parameters: Mapping[str, object], deadline: Deadline) -> Connection:
        """Connect. Blocks, as long as name resolution takes. Raises NotConnected."""
        address = conninfo({name: str(value) for name, value in parameters.items() if value is not None})
        pgconn = pq.PGconn.connect_start(_bytes(address))
        try:
            _log_in(pgconn, deadline)
        except BaseException:
            pgconn.finish()
            raise
        return Connection(pgconn)

    def take(self, connection: libpq.Connection) -> None:
        """Close a connection that psycopg has not made."""
        connection.close()


def _log_in(pgconn: PGconn, deadline: Deadline) -> None:
    # The order is the documentation's: wait first, as if the last answer had been "writing".
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
    """A connection of psycopg's lower half."""

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
        """As in 160014 for 16.14."""
        return self._pgconn.server_version

    @property
    def transaction_status(self) -> int:
        """One of the transaction states; UNKNOWN for a connection that is no more."""
        return self._pgconn.transaction_status

    @property
    def socket(self) -> int:
        """The descriptor to wait on. Raises PqError if there is none any more."""
        return _call(lambda: self._pgconn.socket)

    def host(self) -> str:
        """Return the host that let us in, or the directory of its socket."""
        return self._pgconn.host.decode(errors="replace")

    def address(self) -> str:
        """Return that host's numeric address, "" for a socket of Unix."""
        return self._pgconn.hostaddr.decode(errors="replace")

    def port(self) -> str:
        """Return its port."""
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
        """Return what was in effect when the connection was made."""
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
        """Return a setting as the server has reported it."""
        try:
            value = self._pgconn.parameter_status(name.encode())
        except psycopg.OperationalError:  # It is closed.
            return None
        return None if value is None else value.decode()

    def send_query(self, sql: bytes) -> None:
        """Begin to send one or more statements."""
        _call(lambda: self._pgconn.send_query(sql))

    def send_single(self, sql: bytes) -> None:
        """Begin to send what the server is to take for one statement or refuse."""
        _call(lambda: self._pgconn.send_query_params(sql, None))

    def take_rows_in_parts(self, rows: int) -> None:
        """Let libpq hand over the rows of what has just been sent as they come, so many at once if it can."""
        try:
            self._pgconn.set_chunked_rows_mode(rows)
        except psycopg.NotSupportedError:  # libpq before 17
            _call(self._pgconn.set_single_row_mode)

    def flush(self) -> bool:
        """Send on; return whether something is left to send."""
        return bool(_call(self._pgconn.flush))

    def consume_input(self) -> None:
        """Read what has arrived."""
        _call(self._pgconn.consume_input)

    def is_busy(self) -> bool:
        """Return whether `get_result` would have to wait."""
        return bool(_call(self._pgconn.is_busy))

    def get_result(self) -> Result | None:
        """Return the next result; None at the end."""
        return _call(self._pgconn.get_result)

    def put_copy_end(self, reason: str) -> None:
        """End a COPY FROM STDIN, as failed for a `reason`."""
        _call(lambda: self._pgconn.put_copy_end(reason.encode()))

    def cancelling(self) -> Callable[[], None]:
        """Return what asks the server to cancel; it may wait, in any thread, and raises nothing."""
        try:
            request = self._pgconn.cancel_conn()
        except psycopg.NotSupportedError:  # libpq before 17; psycopg lets no other thread have its turn meanwhile.
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
        """Say good-bye to the server and close."""
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
