"""Try once to connect, in bounded time.

libpq's name resolution cannot be interrupted, so an attempt runs in a daemon thread and the main thread waits with a
deadline of its own: a signal is heard at once, and an attempt that hangs is abandoned.
"""

from __future__ import annotations

import _thread
import os

from entrypoint import logs
from entrypoint.database.address import describe_server, leave_out_time_zone, timeout_for_each_host
from entrypoint.database.answers import SILENCE, NotConnected
from entrypoint.database.binding import binding
from entrypoint.database.classify import classify_connection_failure, without_codes
from entrypoint.database.session import Session
from entrypoint.deadline import Deadline, sliced
from entrypoint.redaction import foreign, know_for_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from entrypoint.database import libpq, pq
    from entrypoint.database.classify import Cause

# For an attempt whose time is over already, in seconds.
LEAST = 1.0


class Failure(Exception):  # noqa: N818 - one attempt's result; what leaves this package is a DatabaseUnavailableError
    """One attempt failed, for this `cause`; `text` is what libpq said."""

    def __init__(self, cause: Cause, text: str) -> None:
        """Take the cause and the text that it was told from."""
        super().__init__(text)
        self.attempts = 1
        """How many had been made when it was given up."""
        self.cause = cause
        self.text = text


def failure_of(text: str) -> Failure:
    """Return the failure that libpq describes with `text`, or that is our own if it begins with `SILENCE`."""
    # Told from the text as it came: a password may be a word by which a cause is known.
    from entrypoint.database.roots import explained

    cause, text = explained(classify_connection_failure(text), text, os.environ), _one_line(without_codes(text))
    return Failure(cause, text if text.startswith(SILENCE) else foreign(text))


def attempt(conninfo: str, deadline: Deadline) -> Session:
    """Connect in a thread of its own, and wait for that until `deadline`. Raises Failure."""
    parameters = binding().parse(conninfo)
    leave_out_time_zone()
    attempt = _Attempt(parameters, deadline)
    logs.start_thread("connect", attempt.run)
    connection = attempt.taken()
    describe_server(connection.host(), connection.port(), connection.database(), connection.user())
    logs.event(
        logs.DEBUG,
        "database.connected",
        f"connected to {foreign(connection.host()) or 'the local socket'}, database {foreign(connection.database())}",
        backend=connection.backend_pid,
    )
    return _session(connection)


def go_on(connection: libpq.Connection) -> Session | None:
    """Return a session on a connection that is there; None if that cannot be, and then the connection is closed."""
    taken = binding().take(connection)
    return None if taken is None else _session(taken)


def _session(connection: pq.Connection) -> Session:
    # libpq looks into more places than we do: a service file of the system's, a password file that it names.
    if password := connection.password():
        know_for_now([password])
    return Session(connection)


class _Attempt:
    """One attempt, which a thread makes while another waits for it."""

    def __init__(self, parameters: dict[str, str], deadline: Deadline) -> None:
        self._parameters = parameters
        self._deadline = deadline
        self._connection: pq.Connection | None = None
        self._error: BaseException | None = None
        self._given_up = False
        self._done = _thread.allocate_lock()
        self._done.acquire()

    def run(self) -> None:
        """Connect, in this thread."""
        try:
            self._connection = _connect(self._parameters, self._deadline)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which knows what to do with it
            self._error = error
        self._done.release()
        if self._given_up and self._connection is not None:
            # Too late; nobody will take it. (If somebody just did, the server only loses an idle connection.)
            self._connection.finish()

    def taken(self) -> pq.Connection:
        """Wait for the connection until the deadline, and take it. Raises Failure."""
        try:
            done = sliced(lambda seconds: self._done.acquire(timeout=seconds), self._deadline.remaining())
        except BaseException:
            self._given_up = True
            raise
        if not done:
            self._given_up = True
            raise failure_of(f"{SILENCE} {self._deadline.budget:g} s")
        if isinstance(self._error, NotConnected):
            raise failure_of(str(self._error))
        if self._error is not None:
            raise self._error
        assert self._connection is not None  # noqa: S101 - it is that or an error
        return self._connection


def _connect(parameters: dict[str, str], deadline: Deadline) -> pq.Connection:
    """Try each host in turn, each with its share of the time. Raises NotConnected."""
    from entrypoint.database import hosts

    attempts = hosts.attempts(parameters)
    refusals: list[str] = []
    each = timeout_for_each_host(parameters, len(attempts), deadline.remaining())
    for one in attempts:
        patience = Deadline(each) if each < int(deadline.remaining()) else deadline
        try:
            return binding().connect({**one, "connect_timeout": each}, patience)
        except NotConnected as refusal:
            refusals.append(str(refusal))
    raise NotConnected("\n".join(refusals))


def _one_line(text: str) -> str:
    """Return libpq's text, of several lines where several addresses were tried, as one line."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
