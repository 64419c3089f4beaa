"""Try once to connect, within a time limit.

libpq's name resolution cannot be interrupted. So an attempt runs in a daemon thread, and the main thread waits with its
own deadline. It can react to a signal at once, and abandons an attempt that hangs.
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

# Seconds for an attempt whose time is already over.
LEAST = 1.0


class Failure(Exception):  # noqa: N818 - one attempt's result; callers of this package get a DatabaseUnavailableError
    """One attempt to connect has failed."""

    def __init__(self, cause: Cause, text: str) -> None:
        """Take the cause, and libpq's text."""
        super().__init__(text)
        self.attempts = 1
        """How many attempts had been made when connecting was given up."""
        self.cause = cause
        self.text = text


def failure_of(text: str) -> Failure:
    """Return the failure for libpq's `text`, or for our own, which begins with `SILENCE`."""
    # Classify the original text: masking a password could remove a word by which the cause is recognized.
    from entrypoint.database.roots import explained

    cause, text = explained(classify_connection_failure(text), text, os.environ), _one_line(without_codes(text))
    return Failure(cause, text if text.startswith(SILENCE) else foreign(text))


def attempt(conninfo: str, deadline: Deadline) -> Session:
    """Connect in a separate thread, and wait for it until `deadline`. Raises Failure."""
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
    """Return a session on an existing connection. If the binding cannot use it, close it and return None."""
    taken = binding().take(connection)
    return None if taken is None else _session(taken)


def _session(connection: pq.Connection) -> Session:
    # libpq may find a password where we do not look, such as the system's service file or a password file named there.
    if password := connection.password():
        know_for_now([password])
    return Session(connection)


class _Attempt:
    """One attempt, made in one thread while another waits for it."""

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
        except BaseException as error:  # noqa: BLE001 - passed to the main thread
            self._error = error
        self._done.release()
        if self._given_up and self._connection is not None:
            # Too late, nobody will take it. (If the main thread has just taken it, only an idle connection is lost.)
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
        assert self._connection is not None  # noqa: S101 - there is either a connection or an error
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
    """Return libpq's text on one line. It has several if several addresses were tried."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
