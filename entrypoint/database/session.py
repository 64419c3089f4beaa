"""One connection on which every wait ends: with an answer, by its deadline, or by a signal.

The waiting is our own, because each wait here needs a deadline that the main thread can keep whatever the server does,
and each statement's result and notice is wanted when it arrives, not when the last one has. Almost everything is sent
as a simple query: several statements cost one round trip, nothing is prepared (transaction poolers cannot do that), and
error positions count in the text as sent. The exception is `statement`, which prepares nothing that outlasts it either.
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

# How long a cancelled statement may take to end before its connection is abandoned, the request included.
_SETTLE = 0.8

_COPY = (pq.COPY_IN, pq.COPY_OUT, pq.COPY_BOTH)
_PLAIN = (pq.COMMAND_OK, pq.TUPLES_OK, pq.EMPTY_QUERY)
# How many results to take before the first of them is looked at.
_AT_ONCE = 64
# How many rows libpq hands over at once: few enough for a little memory, many enough for little work.
_ROWS = 500
_FAILED = (pq.FATAL_ERROR, pq.BAD_RESPONSE, pq.PIPELINE_ABORTED)

# Set by libpq itself where nobody has set it; a libpq before 16 does not know it.
_DEFAULTS_OF_ITS_OWN = {"sslcertmode": "allow"}
# What is this session's own business; or, as the service, is in the other parameters already; or chooses among several
# hosts, of which one is chosen.
_OURS = frozenset(("client_encoding", "service", "servicefile", "load_balance_hosts"))


class Parameters(NamedTuple):
    """libpq's parameters with which another program reaches the server that a session talks to."""

    public: dict[str, str]
    secret: dict[str, str]
    """`password` and the like: never to be seen on a command line."""


class Session:
    """A connection to PostgreSQL, and the waits on it."""

    def __init__(self, connection: pq.Connection) -> None:
        """Take a connection that nobody else uses."""
        self._pgconn = connection
        self._poll = select.poll()
        self._abandoned = False
        self.login_pid: int = connection.backend_pid
        """The server process that answered the login. Behind a pooler, others do the work."""
        self.server_version: int = connection.server_version
        """As in 160014 for 16.14."""
        self.on_notice: Callable[[Notice], None] | None = None
        """What to do with the server's notices; without it they are dropped."""
        self.gave_standby_up = False
        """Whether a commit here has waited for a synchronous standby, and was cancelled: for its time was over."""
        self._notices: deque[Notice] = deque()
        """What libpq has handed over and nobody has seen yet."""
        self._farewell: Notice | None = None
        """Why the server, or a pooler, is about to close a connection that is idle: libpq takes that for a notice."""
        self._pgconn.notice_handler = self._receive_notice

    @property
    def usable(self) -> bool:
        """Whether the connection is still there, as far as is known without asking the server."""
        return not self._abandoned and self._pgconn.transaction_status != pq.UNKNOWN

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, be it a failed one."""
        return self._pgconn.transaction_status in (pq.INTRANS, pq.INERROR)

    def parameters(self) -> Parameters:
        """Return what was in effect when the connection was made: the address, `PG*` variables, a service, a passfile.

        Of several hosts it is the one that let us in.
        """
        public: dict[str, str] = {}
        secret: dict[str, str] = {}
        for name, value, compiled, is_secret in self._pgconn.options():
            if value and value != compiled and name not in _OURS and _DEFAULTS_OF_ITS_OWN.get(name) != value:
                (secret if is_secret else public)[name] = value
        for name, value in (("host", self._pgconn.host()), ("port", self._pgconn.port())):
            if "," in public.get(name, ""):
                public[name] = value
        if address := self._pgconn.address():
            public["hostaddr"] = address
        if password := self._pgconn.password():
            secret["password"] = password  # That of a passfile is not among the options.
        return Parameters(public, secret)

    def whereabouts(self) -> tuple[str, str, str]:
        """Return the host that let us in (or the directory of its socket), its port, and the database's name."""
        return self._pgconn.host(), self._pgconn.port(), self._pgconn.database()

    def parameter(self, name: str) -> str | None:
        """Return a setting as the server has reported it, without asking."""
        return self._pgconn.parameter_status(name)

    @property
    def escapes(self) -> bool:
        """Whether the server takes a backslash in an ordinary string for the beginning of an escape."""
        return self.parameter("standard_conforming_strings") == "off"

    def query(self, sql: str, deadline: Deadline) -> list[list[Row]]:
        """Run one or more statements in one round trip; return the rows of each.

        Raises StatementError for the first that fails (the server skips the rest), ConnectionLostError when
        the connection ends or `deadline` passes, ConfigurationError when a pooler ends it as it knows no transactions.
        After either of these last three, or a signal, the statement has been cancelled if the server still answers.
        """
        results: list[list[Row]] = []
        self._ask(sql, deadline, lambda result: results.append(_rows(result)), keep_rows=True)
        return results

    def script(self, sql: str | bytes, deadline: Deadline, on_result: Callable[[Result], None]) -> None:
        """Run statements in one round trip like `query`, but hand over each result as soon as it is there.

        Of rows only the last few are in it: nobody wants those of a migration, and there may be millions. Bytes are
        UTF-8.
        """
        self._ask(sql, deadline, on_result, keep_rows=False)

    def statement(self, sql: str, deadline: Deadline, on_result: Callable[[Result], None]) -> None:
        """Run one statement like `script`; if the server finds more than one in `sql`, it runs none (42601).

        That is a rule of the extended protocol (postgres.c, exec_parse_message).
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
            # The deadline or a signal: whatever the server is doing now, nobody waits for it any more.
            self._settle(on_result)
            raise

    def cancel(self, seconds: float = _SETTLE) -> None:
        """Ask the server to cancel what this session is doing. May be called from another thread. Never raises."""
        import threading

        # In a thread, as it may block; if it takes too long, it is the caller's deadline that ends the wait.
        thread = threading.Thread(target=self._pgconn.cancelling(), name="cancel", daemon=True)
        thread.start()
        joined(thread, seconds)

    def rollback(self, deadline: Deadline) -> None:
        """End the transaction, if one is open. If that does not work the connection is abandoned; never raises."""
        if not self.usable or self._pgconn.transaction_status == pq.IDLE:
            return
        try:
            self._run(b"ROLLBACK", deadline, lambda _result: None)
        except (StatementError, EntrypointError, PqError):
            # The server ends the transaction by itself when the connection ends.
            self.abandon()

    def wait_for_end(self, seconds: float, wake: int) -> None:
        """Wait while nothing happens on an idle connection; raise ConnectionLostError as soon as it ends.

        Returns after `seconds`, or when the descriptor `wake` can be read.
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
            if self._farewell is not None:
                raise connection_lost(self._farewell.message, self._farewell.sqlstate) from None
            raise connection_lost(foreign(" ".join(str(error).split()))) from None
        self._parse(self._pgconn.is_busy)

    def close(self) -> None:
        """Say good-bye to the server and close. Does not wait for an answer."""
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
            # The server may have to be listened to before it takes more (libpq documentation, PQflush).
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

        `deadline` bounds each wait for the server; `bound`, if given, also the notices that need not be waited for.
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
                return failed  # What the server said before it closed the connection tells more.
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
        """Take the results that have arrived, up to the next notice, or to one that is not plain; None is the end."""
        # Several hundred times for a file.
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
        """Wait until the socket is ready; return for what. A signal's exception passes through."""
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
        """Get out of the COPY sub-protocol: there is no client here that data could come from or go to."""
        if status == pq.COPY_IN:
            self._pgconn.put_copy_end("pg-entrypoint has no data to send")
        else:
            raise PqError("COPY TO STDOUT has nowhere to write to")

    def _settle(self, on_result: Callable[[Result], None]) -> None:
        """Cancel what is running and wait a moment for the server to say so; otherwise abandon the connection."""
        if self._abandoned or self._pgconn.transaction_status != pq.ACTIVE:
            return
        bound = Deadline(_SETTLE)
        self.cancel(_SETTLE / 2)
        try:
            # There may be megabytes of notices between the server and here, and each takes its time to be told.
            self._read_results(bound, on_result, bound)
        except (PqError, ConnectionLostError):
            self.abandon()

    def _parse(self, step: Callable[[], _T]) -> _T:
        """Let libpq read on in what has arrived, and hand over the notices that it finds.

        It calls `_receive_notice`, where nothing may be raised; so that only takes them down.
        """
        with signals.NotInCallbacks():
            answer = step()
        self._tell_notices()
        return answer

    def _tell_notices(self, bound: Deadline | None = None) -> bool:
        """Hand over what notices have come; tell whether there were any. Raises ConnectionLostError after `bound`."""
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
            self._farewell = notice
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
