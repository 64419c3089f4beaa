"""Open a connection, patiently and in bounded time.

Two things make this more than a call. libpq's name resolution cannot be interrupted and its time-out counts
for each address, so an attempt runs in a daemon thread and the main thread waits with a deadline of its own:
a signal is heard at once, and an attempt that hangs is abandoned. And the first attempt, which nearly always
succeeds, does without tenacity, which is imported with the first failure.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.waiting import Wait

from entrypoint import logs
from entrypoint.counts import count
from entrypoint.database.address import (
    has_bare_at_sign,
    is_plausible,
    leave_out_time_zone,
    of_this_program,
    timeout_for_each_host,
)
from entrypoint.database.answers import SILENCE
from entrypoint.database.classify import classify_connection_failure, without_codes
from entrypoint.database.session import Session
from entrypoint.deadline import SLICE, Deadline
from entrypoint.errors import ConfigurationError, DatabaseUnavailableError, EntrypointError
from entrypoint.policy import ATTEMPTS
from entrypoint.redaction import foreign, mask_quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from psycopg.abc import PQGenConn

    from entrypoint.clocks import Clocks
    from entrypoint.database.classify import Cause
    from entrypoint.database.libpq import Libpq
    from entrypoint.policy import ConnectPolicy

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


class Target(NamedTuple):
    """Where and as whom to connect; every connection of the process goes through the same one."""

    conninfo: str
    token: str
    """Tells this process's connections from others' in `pg_stat_activity`, and its row from others' in the lock."""
    configured: bool
    """Whether somebody has said where to; otherwise it is libpq's own defaults."""

    def connect(self, timeout: float) -> Session:
        """Try once to connect, for `timeout` seconds. Raises Failure."""
        return _attempt(self.conninfo, Deadline(timeout))


def target(address: str, variable: str, token: str) -> Target:
    """Check an address before it is used.

    Raises ConfigurationError, without libpq's text where that could quote a piece of a password.
    """
    named = variable or "the connection's PG* variables"
    if has_bare_at_sign(address):
        raise ConfigurationError(
            f"{named} is malformed: there is an @ or a / in the password",
            remedy="Percent-encode it: @ is %40, / is %2F, % is %25.",
            variable=variable or None,
        )
    try:
        parameters = conninfo_to_dict(address)
    except psycopg.ProgrammingError as error:
        from entrypoint.database import misspelt

        reading = misspelt.read(
            address, frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())
        )
        if reading is not None:
            raise ConfigurationError(
                f"{named} {reading.fault}", remedy=reading.remedy, variable=variable or None
            ) from None
        raise ConfigurationError(
            f"{named} is malformed: {foreign(mask_quoted(str(error).strip()))}",
            remedy="It must be like postgresql://user:password@host:5432/database, with special characters "
            "percent-encoded, or like: host=… port=… user=… password=… dbname=…",
            variable=variable or None,
        ) from None
    if not is_plausible(parameters):
        raise ConfigurationError(
            f"{named} is malformed: its host or port cannot be one",
            remedy="Percent-encode the password's special characters: @ is %40, / is %2F, ? is %3F, % is %25.",
            variable=variable or None,
        )
    configured = bool(address) or any(os.environ.get(name) for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE"))
    return Target(make_conninfo("", **of_this_program(parameters, token)), token, configured)


def database_of(target: Target) -> str:
    """Return the name of the database that a target leads to, as libpq will find it, without asking anybody."""
    parameters = conninfo_to_dict(target.conninfo)
    defaults = {option.keyword.decode(): option.val for option in psycopg.pq.Conninfo.get_defaults()}
    for name in ("dbname", "user"):  # libpq: the database is called like its user unless told otherwise
        if value := parameters.get(name) or (defaults.get(name) or b"").decode(errors="replace"):
            return str(value)
    return ""


def failure_of(text: str) -> Failure:
    """Return the failure that libpq describes with `text`, or that is our own if it begins with `SILENCE`."""
    # Told from the text as it came: a password may be a word by which a cause is known.
    cause, text = classify_connection_failure(text), _one_line(without_codes(text))
    return Failure(cause, text if text.startswith(SILENCE) else foreign(text))


def connect(
    target: Target,
    policy: ConnectPolicy,
    clocks: Clocks,
    *,
    spent: int = 0,
    failed: Failure | None = None,
    begun: float = 0.0,
) -> Session:
    """Connect, with attempts and backoff as `policy` says.

    A server that has too many clients is asked again while the start's clock for waiting runs, and that does not
    count as attempts: when many replicas start at once, there is a place as soon as one of them is done.

    `spent` attempts have been made already; if `failed`, one more has just failed so; `begun` seconds of the first
    one's time are over. Raises DatabaseUnavailableError with the cause in words.
    """
    try:
        if failed is not None:
            raise failed
        return target.connect(max(min(LEAST, policy.timeout), policy.timeout - begun))
    except Failure as failure:
        if not failure.cause.heals:
            raise unavailable(failure, target, attempts=1) from None
        from entrypoint.database import backoff  # Only now: tenacity is not needed where the first attempt succeeds.

        try:
            return backoff.connect_again(target, policy, clocks, failure, spent)
        except Failure as last:
            # The default has the documented sentence, by which runbooks and alerts know it.
            default = policy.attempts == ATTEMPTS
            tried = f"{ATTEMPTS} retries" if default else count(last.attempts, "attempt")
            raise unavailable(last, target, attempts=last.attempts, tried=tried) from None


def unavailable(failure: Failure, target: Target, *, attempts: int, tried: str = "") -> EntrypointError:
    """Return the error for a connection that could not be had, be it after it was `tried` again and again."""
    cause = failure.cause
    if cause.name == "address":
        return ConfigurationError(f"The address of the database is malformed: {failure.text}", remedy=cause.remedy)
    if cause.name == "option":
        message = f"The server refused an option of the connection: {failure.text}"
        return ConfigurationError(message, remedy=cause.remedy, cause=cause.name)
    after = f" after {tried}" if cause.heals and tried else ""
    message = f"Database connection failed{after}: {cause.words} ({failure.text})"
    remedy = cause.remedy if target.configured else f"DATABASE_URL is not set; it was libpq's default. {cause.remedy}"
    return DatabaseUnavailableError(message, remedy=remedy, cause=cause.name, attempts=attempts)


def _attempt(conninfo: str, deadline: Deadline) -> Session:
    """Connect in a thread of its own, and wait for that until `deadline`."""
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
