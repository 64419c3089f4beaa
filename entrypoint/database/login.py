"""Try once to connect, in bounded time.

Two things make this more than a call. libpq's name resolution cannot be interrupted and its time-out counts
for each address, so an attempt runs in a daemon thread and the main thread waits with a deadline of its own:
a signal is heard at once, and an attempt that hangs is abandoned. And psycopg asks for no SQLSTATE where a login
fails, so we connect as it does, and ask.
"""

from __future__ import annotations

import queue
import threading

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.waiting import Wait

from entrypoint import logs
from entrypoint.database.address import leave_out_time_zone, timeout_for_each_host
from entrypoint.database.answers import SILENCE
from entrypoint.database.classify import classify_connection_failure, without_codes
from entrypoint.database.session import Session
from entrypoint.deadline import SLICE, Deadline
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from psycopg.abc import PQGenConn

    from entrypoint.database.classify import Cause
    from entrypoint.database.libpq import Libpq

    _Answer = psycopg.Connection | BaseException

# PGVerbosity, from libpq-fe.h.
_DEFAULT, _VERBOSE = 1, 2
_CONNECTED, _FAILED = pq.PollingStatus.OK, pq.PollingStatus.FAILED

# For an attempt whose time is over already, in seconds.
LEAST = 1.0

logs.adopt_other_packages()


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
    cause, text = classify_connection_failure(text), _one_line(without_codes(text))
    return Failure(cause, text if text.startswith(SILENCE) else foreign(text))


def attempt(conninfo: str, deadline: Deadline) -> Session:
    """Connect in a thread of its own, and wait for that until `deadline`. Raises Failure."""
    parameters = conninfo_to_dict(conninfo)
    parameters["connect_timeout"] = timeout_for_each_host(parameters, deadline.remaining())
    leave_out_time_zone()
    answer: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            connection = _Verbose.connect(make_conninfo("", **parameters), autocommit=True, prepare_threshold=None)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which knows what to do with it
            answer.put(error)
            return
        answer.put(connection)
        if given_up.is_set():
            # Too late; nobody will take it. (If somebody just did, the server only loses an idle connection.)
            connection.close()

    threading.Thread(target=work, name="connect", daemon=True).start()
    try:
        result = _taken(answer, deadline)
    except queue.Empty:
        given_up.set()
        raise failure_of(f"{SILENCE} {deadline.budget:g} s") from None
    except BaseException:
        given_up.set()
        raise
    if isinstance(result, psycopg.Error):
        raise failure_of(str(result))
    if isinstance(result, BaseException):
        raise result
    logs.event(
        logs.DEBUG,
        "database.connected",
        f"connected to {foreign(result.info.host) or 'the local socket'}, database {foreign(result.info.dbname)}",
        backend=result.info.backend_pid,
    )
    return Session(result)


def _own_libpq() -> Libpq | None:
    """Return the libpq that psycopg uses, if it can be called without psycopg."""
    try:
        from entrypoint.database import libpq
    except ImportError:  # Another Python's `_ctypes`; see first_look.
        return None
    return libpq.loaded(bundled=pq.__impl__ == "binary")


class _Verbose(psycopg.Connection):
    """A connection whose failure to log in is told with the server's SQLSTATE."""

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        """Connect as psycopg does; it offers no moment between the start and the first answer to ask for more."""
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        library, address = _own_libpq(), getattr(pgconn, "pgconn_ptr", None)
        if library is not None:
            library.set_error_verbosity(address, _VERBOSE)
        while (step := pgconn.connect_poll() if pgconn.status != pq.ConnStatus.BAD else _FAILED) != _CONNECTED:
            if step == _FAILED:
                text = pgconn.get_error_message("utf-8")
                pgconn.finish()
                raise psycopg.OperationalError(f"connection failed: {text}")
            while not (yield pgconn.socket, Wait.R if step == pq.PollingStatus.READING else Wait.W):
                pass
        if library is not None:
            library.set_error_verbosity(address, _DEFAULT)
        pgconn.nonblocking = 1
        return cls(pgconn)


def _one_line(text: str) -> str:
    """Return libpq's text, of several lines where several addresses were tried, as one line."""
    return "; ".join(line.strip() for line in text.removeprefix("connection failed: ").splitlines() if line.strip())


def _taken(answer: queue.SimpleQueue[_Answer], deadline: Deadline) -> _Answer:
    """Wait for the answer, in slices. Raises queue.Empty when the deadline has passed."""
    while True:
        try:
            return answer.get(timeout=min(deadline.remaining(), SLICE))
        except queue.Empty:
            if deadline.passed():
                raise
