"""Use libpq through `_ctypes`, without psycopg: find it, connect, and make the few calls that the first look needs.

With psycopg, importing it would be nine tenths of the cost of an up-to-date start (docs/startup-cost.md). `pq_ctypes`
has the rest of what a session needs; the first look does not import it. The caller connects in a thread, because name
resolution and TLS cannot be interrupted; every other wait here ends by its deadline. `answers` is imported only after a
failure. All functions of libpq are described in PostgreSQL's documentation, chapter "libpq - C Library".

`_ctypes` is the inner module of `ctypes`. The package around it would take 2 ms of every start, and 4 ms with Python
3.14, for features not needed here (docs/decisions/0019-the-inner-half-of-ctypes.md).
"""

from __future__ import annotations

import os
import select
import sys
from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_PYTHONAPI, CFuncPtr, _SimpleCData, byref, dlopen, sizeof

from entrypoint.database.address import describe_server
from entrypoint.database.quoting import conninfo
from entrypoint.errors import EntrypointError
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from entrypoint.database.answers import NotConnected, Row, StatementError
    from entrypoint.deadline import Deadline

    _Simple = _SimpleCData[Any]
else:
    _Simple = _SimpleCData

# From libpq-fe.h: ConnStatusType, PostgresPollingStatusType, ExecStatusType, PGTransactionStatusType.
_BAD = 1
_POLLING_FAILED, _POLLING_READING, _POLLING_WRITING, _POLLING_OK = range(4)
_COMMAND_OK, _TUPLES_OK = 1, 2
_IDLE, _UNKNOWN = 0, 4
# PGVerbosity. Only in verbose mode does the text about a failed login contain the server's SQLSTATE.
_DEFAULT, _VERBOSE = 1, 2
# OPENSSL_INIT_NO_LOAD_CONFIG, from openssl/crypto.h.
_NO_LOAD_CONFIG = 0x80


class c_int(_Simple):  # noqa: N801 - as in ctypes
    """C's `int`."""

    _type_ = "i"


class c_char_p(_Simple):  # noqa: N801
    """C's zero-terminated string: bytes, or None."""

    _type_ = "z"


class c_void_p(_Simple):  # noqa: N801
    """C's `void *`: a number, or None."""

    _type_ = "P"


class _Function(CFuncPtr):
    """A C function."""

    _flags_ = FUNCFLAG_CDECL
    _restype_ = c_int


class _Quick(CFuncPtr):
    """A C function that never blocks. It is called without releasing the interpreter lock.

    Reading an answer takes some hundred calls. Otherwise the two threads would contend for the lock at each of them.
    """

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI
    _restype_ = c_int


# PQconninfoOption: keyword, envvar, compiled, val, label, dispchar, and an int, padded to a pointer's size.
ADDRESS = sizeof(c_void_p)
_KEYWORD, _VALUE, _OPTION = 0, 3 * ADDRESS, 7 * ADDRESS


class Libpq:
    """A loaded libpq."""

    def __init__(self, path: str, mode: int) -> None:
        """Load it with a `mode` of dlopen(3). Raises OSError, or AttributeError if it lacks a function."""
        self._handle = dlopen(path, mode)

        function, quick = self.function, self.quick
        self.conninfo_parse = quick("PQconninfoParse", c_void_p, c_char_p, c_void_p)
        self.conninfo_free = quick("PQconninfoFree", None, c_void_p)
        self.freemem = quick("PQfreemem", None, c_void_p)
        self.connect_start = function("PQconnectStart", c_void_p, c_char_p)
        self.connect_poll = function("PQconnectPoll", c_int, c_void_p)
        self.status = quick("PQstatus", c_int, c_void_p)
        self.socket = quick("PQsocket", c_int, c_void_p)
        self.transaction_status = quick("PQtransactionStatus", c_int, c_void_p)
        self.error_message = quick("PQerrorMessage", c_char_p, c_void_p)
        self.host = quick("PQhost", c_char_p, c_void_p)
        self.port = quick("PQport", c_char_p, c_void_p)
        self.database = quick("PQdb", c_char_p, c_void_p)
        self.user = quick("PQuser", c_char_p, c_void_p)
        self.backend_pid = quick("PQbackendPID", c_int, c_void_p)
        self.send_query = function("PQsendQuery", c_int, c_void_p, c_char_p)
        self.consume_input = function("PQconsumeInput", c_int, c_void_p)
        self.is_busy = quick("PQisBusy", c_int, c_void_p)
        # Called only when it will not block, that is, if `is_busy` has returned 0.
        self.get_result = quick("PQgetResult", c_void_p, c_void_p)
        self.result_status = quick("PQresultStatus", c_int, c_void_p)
        self.result_error_field = quick("PQresultErrorField", c_char_p, c_void_p, c_int)
        self.result_error_message = quick("PQresultErrorMessage", c_char_p, c_void_p)
        self.ntuples = quick("PQntuples", c_int, c_void_p)
        self.nfields = quick("PQnfields", c_int, c_void_p)
        self.getvalue = quick("PQgetvalue", c_char_p, c_void_p, c_int, c_int)
        self.getisnull = quick("PQgetisnull", c_int, c_void_p, c_int, c_int)
        self.clear = quick("PQclear", None, c_void_p)
        self.set_error_verbosity = quick("PQsetErrorVerbosity", c_int, c_void_p, c_int)
        self.finish = function("PQfinish", None, c_void_p)
        self.set_notice_processor = quick("PQsetNoticeProcessor", c_void_p, c_void_p, c_void_p, c_void_p)

    def function(self, name: str, result: type | None, *arguments: type, kind: type[CFuncPtr] = _Function) -> Any:
        """Return a function by its name. Raises AttributeError if there is none."""
        found = kind((name, self))  # type: ignore[arg-type]  # it reads only `_handle`
        found.restype, found.argtypes = result, arguments
        return found

    def quick(self, name: str, result: type | None, *arguments: type) -> Any:
        """Return a function that never blocks."""
        return self.function(name, result, *arguments, kind=_Quick)

    def parse(self, address: str) -> dict[str, str] | None:
        """Return the parameters that an address sets; None if it is malformed."""
        message = c_void_p()
        options = self.conninfo_parse(address.encode(errors="surrogateescape"), byref(message))
        if not options:
            self.freemem(message)
            return None
        found = {keyword: value for _, keyword, value in each(options) if value is not None}
        self.conninfo_free(options)
        return found


def each(option: int) -> Iterator[tuple[int, str, str | None]]:
    """Yield the options in a list from libpq: each one's address in memory, its keyword and its value."""
    while keyword := c_char_p.from_address(option + _KEYWORD).value:
        yield option, keyword.decode(), text_at(option + _VALUE)
        option += _OPTION


def text_at(place: int) -> str | None:
    """Return the text that the pointer at `place` points to. Bytes that are not UTF-8 become surrogates."""
    value = c_char_p.from_address(place).value
    return None if value is None else value.decode(errors="surrogateescape")


def load() -> Libpq | None:
    """Load the libpq in psycopg's binary package, or else the system's; None if there is neither."""
    own = bundled()
    try:
        # The libraries in the wheel belong together, so their symbols need not be resolved up front, which would take
        # 0.6 ms. In others, find a missing symbol now, not in the middle of a call.
        found = Libpq(own, os.RTLD_LAZY) if own else Libpq("libpq.so.5", os.RTLD_NOW)
        if own and "OPENSSL_CONF" in os.environ and getattr(sys, "frozen", False):
            _ignore_configuration(found)
    except (OSError, AttributeError):
        return None
    return found


def _ignore_configuration(library: Libpq) -> None:
    """Keep the self-contained folder's OpenSSL from reading the file that OPENSSL_CONF names.

    That file is the image's, for the application. It may require modules that only the image's own OpenSSL can load,
    and then TLS would fail. Call this before OpenSSL is used.
    """
    library.quick("OPENSSL_init_crypto", c_int, c_void_p, c_void_p)(_NO_LOAD_CONFIG, None)


def bundled() -> str | None:
    """Return the path of the libpq in psycopg's binary package; None if that is not installed."""
    for folder in sys.path:
        libraries = os.path.join(folder, "psycopg_binary.libs")
        try:
            names = os.listdir(libraries)
        except OSError:
            continue
        for name in names:
            if name.startswith("libpq-"):
                return os.path.join(libraries, name)
    return None


class Connection:
    """A connection for a few queries, with the methods of `Session` that those need."""

    def __init__(self, libpq: Libpq, parameters: Mapping[str, object]) -> None:
        """Start connecting. This resolves the host's name, which may take long."""
        self._libpq = libpq
        address = conninfo({name: str(value) for name, value in parameters.items() if value is not None})
        self._connection: int | None = libpq.connect_start(address.encode(errors="surrogateescape"))
        # By default libpq prints notices, and a server may send one during the login. PQfreemem serves as a callback
        # that does nothing, because its first argument is NULL. A callback in Python would take a millisecond, and
        # memory that is both writable and executable, which some systems refuse.
        libpq.set_notice_processor(self._connection, libpq.freemem, None)
        libpq.set_error_verbosity(self._connection, _VERBOSE)

    def log_in(self, deadline: Deadline) -> None:
        """Wait until the connection can be used. Raises NotConnected, with libpq's text if there is one."""
        libpq = self._libpq
        # The documentation says to begin as if PQconnectPoll had returned PGRES_POLLING_WRITING.
        step = _POLLING_FAILED if libpq.status(self._connection) == _BAD else _POLLING_WRITING
        while step != _POLLING_OK:
            if step == _POLLING_FAILED:
                raise _not_connected(self._error())
            if not self._ready(select.POLLIN if step == _POLLING_READING else select.POLLOUT, deadline):
                from entrypoint.database.answers import SILENCE

                raise _not_connected(f"{SILENCE} {deadline.budget:g} s")
            step = libpq.connect_poll(self._connection)
        libpq.set_error_verbosity(self._connection, _DEFAULT)

    def describe(self) -> None:
        """Set the log's fields for the server, database and user."""
        library = self._libpq
        found = (library.host, library.port, library.database, library.user)
        describe_server(*(text_of(function(self._connection)) for function in found))

    def __str__(self) -> str:
        """Return the host and database, for the log."""
        host, database = self._libpq.host(self._connection), self._libpq.database(self._connection)
        return f"{foreign(text_of(host)) or 'the local socket'}, database {foreign(text_of(database))}"

    @property
    def backend_pid(self) -> int:
        """The server process that answered the login."""
        return int(self._libpq.backend_pid(self._connection))

    def query(self, sql: str, deadline: Deadline) -> list[list[Row]]:
        """Run one or more statements in one round trip; return the rows of each.

        Raises StatementError for the first that fails, ConnectionLostError when the connection ends or `deadline`
        passes.
        """
        libpq = self._libpq
        if not libpq.send_query(self._connection, sql.encode()):
            raise self._lost()
        results: list[list[Row]] = []
        failed: StatementError | None = None
        while result := self._next_result(deadline):
            try:
                if libpq.result_status(result) in (_TUPLES_OK, _COMMAND_OK):
                    results.append(self._rows(result))
                else:
                    failed = failed or _refused(libpq, result, len(results))
            finally:
                libpq.clear(result)
        if libpq.transaction_status(self._connection) == _UNKNOWN:
            raise self._lost()
        if failed is not None:
            raise failed
        return results

    def _next_result(self, deadline: Deadline) -> int | None:
        libpq = self._libpq
        while libpq.is_busy(self._connection):
            if not self._ready(select.POLLIN, deadline):
                from entrypoint.database.answers import no_answer

                raise no_answer(deadline.budget)
            if not libpq.consume_input(self._connection):
                raise self._lost()
        result: int | None = libpq.get_result(self._connection)
        return result

    def _ready(self, events: int, deadline: Deadline) -> bool:
        """Wait until the socket is ready; return False if the deadline passes first."""
        poll = select.poll()
        poll.register(self._libpq.socket(self._connection), events)
        return bool(poll.poll(deadline.remaining() * 1000))

    def rollback(self, deadline: Deadline) -> None:
        """End the transaction, if one is open; never raises."""
        if self._libpq.transaction_status(self._connection) in (_IDLE, _UNKNOWN):
            return
        from entrypoint.database.answers import StatementError

        try:
            self.query("ROLLBACK", deadline)
        except (StatementError, EntrypointError):
            return  # The server ends the transaction when the connection ends.

    def taken(self) -> int:
        """Hand the connection over, as its address in memory. The caller has to close it."""
        pointer, self._connection = self._connection, None
        assert pointer is not None  # noqa: S101 - it is logged in
        return pointer

    def close(self) -> None:
        """Close the connection properly. Does not wait for an answer."""
        if self._connection is not None:
            self._libpq.finish(self._connection)
            self._connection = None

    def _rows(self, result: int) -> list[Row]:
        get, is_null = self._libpq.getvalue, self._libpq.getisnull
        columns = range(self._libpq.nfields(result))
        return [
            # Only `is_null` distinguishes NULL from an empty string.
            tuple(
                [
                    value.decode() if (value := get(result, row, column)) or not is_null(result, row, column) else None
                    for column in columns
                ]
            )
            for row in range(self._libpq.ntuples(result))
        ]

    def _error(self) -> str:
        return text_of(self._libpq.error_message(self._connection))

    def _lost(self) -> EntrypointError:
        from entrypoint.database.answers import connection_lost

        return connection_lost(foreign(self._error()))


def _not_connected(text: str) -> NotConnected:
    from entrypoint.database.answers import NotConnected

    return NotConnected(text)


def _refused(libpq: Libpq, result: int, statement: int) -> StatementError:
    from entrypoint.database.answers import Refusal, StatementError

    return StatementError(Refusal(libpq, result), statement)


def text_of(value: bytes | None) -> str:
    """Return a text from libpq; "" if there is none."""
    return (value or b"").decode(errors="replace")
