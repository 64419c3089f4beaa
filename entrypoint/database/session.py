"""A connection on which every wait ends: with an answer, at its deadline, or by a signal.

We wait on libpq ourselves, because each wait needs a deadline that holds whatever the server does, and because results
and notices are needed when they arrive, not after the last one. Nearly everything is sent as a simple query. That way
several statements take one round trip, nothing is prepared (transaction poolers cannot do that), and error positions
refer to the text as sent. The exception is `statement`, but it leaves nothing prepared, either.
"""

from __future__ import annotations

import select
from collections import deque

from entrypoint import signals
from entrypoint.database import pq
from entrypoint.database.answers import Notice, StatementError, connection_lost, gave_standby_up, no_answer
from entrypoint.database.pq import PqError
from entrypoint.deadline import SLICE, Deadline, joined
from entrypoint.errors import ConnectionLostError, EntrypointError
from entrypoint.records import NamedTuple
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from entrypoint.database.answers import Answer, Result, Row

    _T = TypeVar("_T")

# Seconds for the cancel request, and for the statement to end, before its connection is abandoned.
_SETTLE = 0.8

_COPY = (pq.COPY_IN, pq.COPY_OUT, pq.COPY_BOTH)
_PLAIN = (pq.COMMAND_OK, pq.TUPLES_OK, pq.EMPTY_QUERY)
# How many results to take before the first one is processed.
_AT_ONCE = 64
# How many rows libpq returns at once: few enough to save memory, many enough to save work.
_ROWS = 500
_FAILED = (pq.FATAL_ERROR, pq.BAD_RESPONSE, pq.PIPELINE_ABORTED)

# Values that libpq sets by default, and that a libpq before 16 does not know.
_LIBPQ_DEFAULTS = {"sslcertmode": "allow"}
# Parameters not to pass on: they concern only this session, or are already resolved into others (the service), or
# choose among several hosts.
_OURS = frozenset(("client_encoding", "service", "servicefile", "load_balance_hosts"))


class Parameters(NamedTuple):
    """libpq's parameters with which another program can connect to the same server as a session."""

    public: dict[str, str]
    secret: dict[str, str]
    """`password` and the like. They must not appear on a command line."""


class Session:
    """A connection to PostgreSQL."""

    def __init__(self, connection: pq.Connection) -> None:
        """Take a connection that nothing else uses."""
        self._pgconn = connection
        self._poll = select.poll()
        self._abandoned = False
        self.login_pid: int = connection.backend_pid
        """The server process that answered the login. Behind a pooler, others run the statements."""
        self.server_version: int = connection.server_version
        """A number, such as 160014 for 16.14."""
        self.on_notice: Callable[[Notice], None] | None = None
        """Called with each of the server's notices; if None, they are dropped."""
        self.gave_standby_up = False
        """Whether a commit was cancelled while it waited for a synchronous standby, because its time was over."""
        self._notices: deque[Notice] = deque()
        """Notices from libpq that have not been passed to `on_notice` yet."""
        self._closing_error: Notice | None = None
        """Why the server or a pooler has closed an idle connection. libpq treats that error as a notice."""
        self._pgconn.notice_handler = self._receive_notice

    @property
    def usable(self) -> bool:
        """Whether the connection still exists, as far as is known without asking the server."""
        return not self._abandoned and self._pgconn.transaction_status != pq.UNKNOWN

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, even a failed one."""
        return self._pgconn.transaction_status in (pq.INTRANS, pq.INERROR)

    def parameters(self) -> Parameters:
        """Return the parameters of this connection, from the address, `PG*` variables, a service and a passfile.

        If there were several hosts, only the one that we are connected to is included.
        """
        public: dict[str, str] = {}
        secret: dict[str, str] = {}
        for name, value, compiled, is_secret in self._pgconn.options():
            if value and value != compiled and name not in _OURS and _LIBPQ_DEFAULTS.get(name) != value:
                (secret if is_secret else public)[name] = value
        for name, value in (("host", self._pgconn.host()), ("port", self._pgconn.port())):
            if "," in public.get(name, ""):
                public[name] = value
        if address := self._pgconn.address():
            public["hostaddr"] = address
        if password := self._pgconn.password():
            secret["password"] = password  # One from a passfile is not among the options.
        return Parameters(public, secret)

    def whereabouts(self) -> tuple[str, str, str]:
        """Return the host that we are connected to (or the socket's directory), its port, and the database's name."""
        return self._pgconn.host(), self._pgconn.port(), self._pgconn.database()

    def parameter(self, name: str) -> str | None:
        """Return a setting that the server reports, without asking."""
        return self._pgconn.parameter_status(name)

    @property
    def escapes(self) -> bool:
        """Whether a backslash in an ordinary string begins an escape sequence."""
        return self.parameter("standard_conforming_strings") == "off"

    def query(self, sql: str, deadline: Deadline) -> list[list[Row]]:
        """Run one or more statements in one round trip; return the rows of each.

        Raises StatementError for the first that fails (the server skips the rest), ConnectionLostError if the
        connection ends or `deadline` passes, and ConfigurationError if a pooler in statement mode ends it. After a
        signal, or any error except StatementError, the statement has been cancelled if the server still answers.
        """
        results: list[list[Row]] = []
        self._ask(sql, deadline, lambda result: results.append(_rows(result)), keep_rows=True)
        return results

    def script(self, sql: str | bytes, deadline: Deadline, on_result: Callable[[Result], None]) -> None:
        """Run statements in one round trip like `query`, but pass each result to `on_result` as soon as it arrives.

        A result has only the last few of its rows: those of a migration are not needed, and there may be millions.
        Bytes in `sql` are UTF-8.
        """
        self._ask(sql, deadline, on_result, keep_rows=False)

    def statement(self, sql: str, deadline: Deadline, on_result: Callable[[Result], None]) -> None:
        """Run one statement like `script`. If the server finds more than one in `sql`, it refuses them all (42601).

        This is a rule of the extended protocol (postgres.c, exec_parse_message).
        """
        self._ask(sql, deadline, on_result, keep_rows=False, single=True)

    def _ask(
        self,
        sql: str | bytes,
        deadline: Deadline,
        on_result: Callable[[Result], None],
        *,
        keep_rows: bool,
        single: bool = False,
    ) -> None:
        try:
            content = sql.encode() if isinstance(sql, str) else sql
            self._run(content, deadline, on_result, keep_rows=keep_rows, single=single)
        except StatementError:
            raise
        except PqError as error:
            self.abandon()
            raise connection_lost(foreign(" ".join(str(error).split()))) from None
        except BaseException:
            # The deadline or a signal: nobody waits any longer for what the server is doing.
            self._settle(on_result)
            raise

    def cancel(self, seconds: float = _SETTLE) -> None:
        """Ask the server to cancel what this session is doing. May be called from another thread. Never raises."""
        import threading

        # In a thread, because it may block; we wait for at most `seconds`.
        thread = threading.Thread(target=self._pgconn.cancelling(), name="cancel", daemon=True)
        thread.start()
        joined(thread, seconds)

    def rollback(self, deadline: Deadline) -> None:
        """End the transaction, if one is open. If that fails, abandon the connection. Never raises."""
        if not self.usable or self._pgconn.transaction_status == pq.IDLE:
            return
        try:
            self._run(b"ROLLBACK", deadline, lambda _result: None)
        except (StatementError, EntrypointError, PqError):
            # The server ends the transaction when the connection ends.
            self.abandon()

    def wait_for_end(self, seconds: float, wake: int) -> None:
        """Wait on an idle connection, and raise ConnectionLostError as soon as it ends.

        Returns after `seconds`, or when the descriptor `wake` becomes readable.
        """
        poll = select.poll()
        poll.register(self._pgconn.socket, select.POLLIN)
        poll.register(wake, select.POLLIN)
        if all(descriptor == wake for descriptor, _ in poll.poll(seconds * 1000)):
            return
        try:
            self._pgconn.consume_input()
        except PqError as error:
            self._parse(self._pgconn.is_busy)
            self.abandon()
            if self._closing_error is not None:
                raise connection_lost(self._closing_error.message, self._closing_error.sqlstate) from None
            raise connection_lost(foreign(" ".join(str(error).split()))) from None
        self._parse(self._pgconn.is_busy)

    def close(self) -> None:
        """Close the connection properly. Does not wait for an answer."""
        self._abandoned = True
        self._pgconn.finish()

    abandon = close

    def _run(
        self,
        sql: bytes,
        deadline: Deadline,
        on_result: Callable[[Result], None],
        *,
        keep_rows: bool = True,
        single: bool = False,
    ) -> None:
        pgconn = self._pgconn
        if not self.usable:
            raise connection_lost("it is closed")
        if single:
            pgconn.send_single(sql)
        else:
            pgconn.send_query(sql)
        if not keep_rows:
            pgconn.take_rows_in_parts(_ROWS)
        while pgconn.flush():
            # The server may not take more until we have read what it sends (libpq documentation, PQflush).
            if self._wait(select.POLLIN | select.POLLOUT, deadline) & select.POLLIN:
                pgconn.consume_input()
        failed = self._read_results(deadline, on_result)
        if pgconn.transaction_status == pq.UNKNOWN:
            self.abandon()
            raise connection_lost(
                failed.primary if failed else "the server closed it", failed.sqlstate if failed else None
            )
        if failed is not None:
            raise failed

    def _read_results(
        self, deadline: Deadline, on_result: Callable[[Result], None], bound: Deadline | None = None
    ) -> StatementError | None:
        """Read results until the server is ready for the next query; return the first error among them.

        `deadline` limits each wait for the server; `bound`, if given, also limits the time for passing on notices.
        """
        pgconn = self._pgconn
        failed: StatementError | None = None
        statement = 0
        rows: Result | None = None
        while True:
            try:
                taken = self._take()
                if not taken and not self._tell_notices(bound):
                    self._wait(select.POLLIN, deadline)
                    pgconn.consume_input()
            except PqError:
                if failed is None:
                    raise
                return failed  # This says more than the end of the connection.
            for result in taken:
                if result is None:
                    return failed
                status = result.status
                if status in _PLAIN:
                    on_result(rows or result)
                    rows = None
                    statement += 1
                elif status in _COPY:
                    self._refuse_copy(status)
                elif status in _FAILED:
                    failed = failed or StatementError(result, statement)
                else:
                    rows = result

    def _take(self) -> list[Result | None]:
        """Take the results that have arrived, up to a notice or a result that is not plain. None marks the end."""
        # Local names, because this runs several hundred times for a file.
        is_busy, get_result, notices = self._pgconn.is_busy, self._pgconn.get_result, self._notices
        taken: list[Result | None] = []
        with signals.NotInCallbacks():
            while len(taken) < _AT_ONCE:
                busy = is_busy()
                if busy or notices:
                    break
                result = get_result()
                taken.append(result)
                if result is None or result.status not in _PLAIN:
                    break
        return taken

    def _wait(self, events: int, deadline: Deadline) -> int:
        """Wait until the socket is ready, and return the events. A signal's exception passes through."""
        self._poll.register(self._pgconn.socket, events)
        while True:
            passed = deadline.passed()
            ready = self._poll.poll(min(deadline.remaining(), SLICE) * 1000)
            signals.raise_lost()
            if ready:
                return ready[0][1]
            if passed:
                raise no_answer(deadline.budget)

    def _refuse_copy(self, status: int) -> None:
        """End COPY mode: we have no data to send, and nowhere to write any."""
        if status == pq.COPY_IN:
            self._pgconn.put_copy_end("pg-entrypoint has no data to send")
        else:
            raise PqError("COPY TO STDOUT has nowhere to write to")

    def _settle(self, on_result: Callable[[Result], None]) -> None:
        """Cancel what is running, and wait a moment for the server to confirm; otherwise abandon the connection."""
        if self._abandoned or self._pgconn.transaction_status != pq.ACTIVE:
            return
        bound = Deadline(_SETTLE)
        self.cancel(_SETTLE / 2)
        try:
            # Megabytes of notices may be on their way, and passing each on takes time.
            self._read_results(bound, on_result, bound)
        except (PqError, ConnectionLostError):
            self.abandon()

    def _parse(self, step: Callable[[], _T]) -> _T:
        """Have libpq parse what has arrived, and pass on the notices that it finds.

        libpq calls `_receive_notice`, which must not raise, so that only collects them.
        """
        with signals.NotInCallbacks():
            answer = step()
        self._tell_notices()
        return answer

    def _tell_notices(self, bound: Deadline | None = None) -> bool:
        """Pass on the notices that have come; tell whether there were any. Raises ConnectionLostError after `bound`."""
        told = bool(self._notices)
        while self._notices:
            if bound is not None and bound.passed():
                raise no_answer(bound.budget)
            notice = self._notices.popleft()
            if self.on_notice is not None:
                self.on_notice(notice)
        return told

    def _receive_notice(self, result: Answer) -> None:
        notice = Notice.of(result)
        if notice.is_error:
            self._closing_error = notice
        if gave_standby_up(result):
            self.gave_standby_up = True
        if self.on_notice is not None:
            self._notices.append(notice)


def _rows(result: Result) -> list[Row]:
    if result.status != pq.TUPLES_OK:
        return []

    def text(row: int, column: int) -> str | None:
        value = result.get_value(row, column)
        return None if value is None else value.decode()

    return [tuple(text(row, column) for column in range(result.nfields)) for row in range(result.ntuples)]
