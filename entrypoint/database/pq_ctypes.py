"""Our own binding of libpq: the part that only sessions need. The rest is in `libpq`.

Calls that may take long release the interpreter lock; the others keep it, because reading an answer takes several
hundred of them (`libpq.Libpq.quick`). There is one callback, for notices. libpq calls it inside one of our calls, in
the same thread, and it acquires the interpreter lock if that was released. A callback needs memory that is both
writable and executable; if the system forbids that, `load` returns None.
"""

from __future__ import annotations

from _ctypes import FUNCFLAG_CDECL, CFuncPtr, byref
from _weakref import ref

from entrypoint.database import libpq
from entrypoint.database.answers import NotConnected, Refusal
from entrypoint.database.libpq import ADDRESS, c_char_p, c_int, c_void_p, each, text_at, text_of
from entrypoint.database.pq import Option, PqError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from entrypoint.database.answers import Answer, Result
    from entrypoint.deadline import Deadline

# More fields of PQconninfoOption; see `libpq`.
_COMPILED, _DISPLAY = 2 * ADDRESS, 5 * ADDRESS
_SECRET = b"*"


class _Receiver(CFuncPtr):
    """PQnoticeReceiver: a Python function that C can call."""

    _flags_ = FUNCFLAG_CDECL
    _argtypes_ = (c_void_p, c_void_p)
    _restype_ = None


class Binding:
    """A loaded libpq, with all functions that a session calls."""

    def __init__(self, library: libpq.Libpq) -> None:
        """Look up the functions. Raises AttributeError if one is missing, MemoryError if callbacks are not allowed."""
        self.library = library
        function, quick = library.function, library.quick
        self.conndefaults = quick("PQconndefaults", c_void_p)
        self.conninfo = quick("PQconninfo", c_void_p, c_void_p)
        self.server_version = quick("PQserverVersion", c_int, c_void_p)
        self.parameter_status = quick("PQparameterStatus", c_char_p, c_void_p, c_char_p)
        self.password = quick("PQpass", c_char_p, c_void_p)
        self.address = quick("PQhostaddr", c_char_p, c_void_p)
        self.set_nonblocking = quick("PQsetnonblocking", c_int, c_void_p, c_int)
        self.send_query_params = function(
            "PQsendQueryParams", c_int, c_void_p, c_char_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_int
        )
        self.flush = function("PQflush", c_int, c_void_p)
        self.put_copy_end = function("PQputCopyEnd", c_int, c_void_p, c_char_p)
        self.set_single_row_mode = quick("PQsetSingleRowMode", c_int, c_void_p)
        self.set_notice_receiver = quick("PQsetNoticeReceiver", c_void_p, c_void_p, c_void_p, c_void_p)
        self.command_status = quick("PQcmdStatus", c_char_p, c_void_p)
        self.set_chunked_rows_mode: Any = None
        try:  # libpq 17 and later
            self.set_chunked_rows_mode = quick("PQsetChunkedRowsMode", c_int, c_void_p, c_int)
            self.cancel_create = quick("PQcancelCreate", c_void_p, c_void_p)
            self.cancel_blocking = function("PQcancelBlocking", c_int, c_void_p)
            self.cancel_finish = function("PQcancelFinish", None, c_void_p)
        except AttributeError:
            self.cancel_create = quick("PQgetCancel", c_void_p, c_void_p)
            by_pid = function("PQcancel", c_int, c_void_p, c_void_p, c_int)
            self.cancel_blocking = lambda request: by_pid(request, (c_char_p * 32)(), 32 * ADDRESS)
            self.cancel_finish = quick("PQfreeCancel", None, c_void_p)
        self.receiver = _Receiver(_receive)

    def parse(self, address: str) -> dict[str, str]:
        """Return the parameters in an address. Bytes that are not UTF-8 become surrogates. Raises PqError."""
        message = c_void_p()
        library = self.library
        options = library.conninfo_parse(_bytes(address), byref(message))
        if not options:
            text = text_of(c_char_p.from_buffer(message).value)
            library.freemem(message)
            raise PqError(text)
        return {name: value for name, value, *_ in self.read(options) if value is not None}

    def defaults(self) -> dict[str, str | None]:
        """Return all parameters that exist, with their default values."""
        return {name: value for name, value, *_ in self.read(self.conndefaults())}

    def connect(self, parameters: Mapping[str, object], deadline: Deadline) -> Connection:
        """Connect. Blocks while names are resolved, whatever the deadline. Raises NotConnected."""
        connection = libpq.Connection(self.library, parameters)
        try:
            connection.log_in(deadline)
        except NotConnected:
            connection.close()
            raise
        return self.take(connection)

    def take(self, connection: libpq.Connection) -> Connection:
        """Take over a connection that is logged in."""
        return Connection(self, connection.taken())

    def read(self, options: int | None) -> list[Option]:
        """Return the options in a list from libpq, and free the list."""
        if not options:
            raise PqError("out of memory")
        try:
            return list(_options(options))
        finally:
            self.library.conninfo_free(options)


def load() -> Binding | None:
    """Return the binding; None if it cannot work here."""
    library = libpq.load()
    try:
        return None if library is None else Binding(library)
    except (AttributeError, MemoryError):
        return None


def _options(first: int) -> Iterator[Option]:
    for option, keyword, value in each(first):
        secret = c_char_p.from_address(option + _DISPLAY).value == _SECRET
        yield Option(keyword, value, text_at(option + _COMPILED), secret)


class Connection:
    """A libpq connection."""

    def __init__(self, binding: Binding, pointer: int) -> None:
        """Take a connection that is logged in, by its address in memory."""
        self.notice_handler: Callable[[Answer], None] | None = None
        self._binding = binding
        self._library = binding.library
        self._pointer: int | None = pointer
        _connections[pointer] = ref(self)
        binding.set_nonblocking(pointer, 1)
        binding.set_notice_receiver(pointer, binding.receiver, pointer)

    @property
    def backend_pid(self) -> int:
        """The server process that answered the login."""
        return int(self._library.backend_pid(self._pointer))

    @property
    def server_version(self) -> int:
        """A number, such as 160014 for 16.14."""
        return int(self._binding.server_version(self._pointer))

    @property
    def transaction_status(self) -> int:
        """One of the transaction states; UNKNOWN if the connection is lost."""
        return int(self._library.transaction_status(self._pointer))

    @property
    def socket(self) -> int:
        """The descriptor to wait on. Raises PqError if there is none."""
        descriptor = int(self._library.socket(self._pointer))
        if descriptor < 0:
            raise PqError("the connection is lost")
        return descriptor

    def host(self) -> str:
        """Return the host that we are connected to, or the directory of its socket."""
        return text_of(self._library.host(self._pointer))

    def address(self) -> str:
        """Return that host's IP address; "" for a Unix socket."""
        return text_of(self._binding.address(self._pointer))

    def port(self) -> str:
        """Return the host's port."""
        return text_of(self._library.port(self._pointer))

    def database(self) -> str:
        """Return the database's name."""
        return text_of(self._library.database(self._pointer))

    def user(self) -> str:
        """Return the name of the user who logged in."""
        return text_of(self._library.user(self._pointer))

    def password(self) -> str:
        """Return the password that was used, wherever it came from."""
        value: bytes | None = self._binding.password(self._pointer)
        return (value or b"").decode(errors="surrogateescape")

    def options(self) -> list[Option]:
        """Return the options that were in effect when the connection was made."""
        return self._binding.read(self._binding.conninfo(self._pointer))

    def parameter_status(self, name: str) -> str | None:
        """Return a setting that the server reports."""
        value = self._binding.parameter_status(self._pointer, name.encode())
        return None if value is None else value.decode()

    def send_query(self, sql: bytes) -> None:
        """Start sending one or more statements."""
        self._succeeded(self._library.send_query(self._pointer, sql))

    def send_single(self, sql: bytes) -> None:
        """Start sending a single statement; the server refuses a text with more than one."""
        self._succeeded(self._binding.send_query_params(self._pointer, sql, 0, None, None, None, None, 0))

    def take_rows_in_parts(self, rows: int) -> None:
        """Return the rows of what was just sent as they arrive, `rows` at a time (before libpq 17, singly)."""
        if self._binding.set_chunked_rows_mode is not None:
            self._succeeded(self._binding.set_chunked_rows_mode(self._pointer, rows))
        else:
            self._succeeded(self._binding.set_single_row_mode(self._pointer))

    def flush(self) -> bool:
        """Go on sending; return whether something is left to send."""
        left = self._binding.flush(self._pointer)
        self._succeeded(left >= 0)
        return bool(left)

    def consume_input(self) -> None:
        """Read what has arrived."""
        self._succeeded(self._library.consume_input(self._pointer))

    def is_busy(self) -> bool:
        """Return whether `get_result` would block."""
        return bool(self._library.is_busy(self._pointer))

    def get_result(self) -> Result | None:
        """Return the next result; None at the end. Call it only if it will not block."""
        pointer = self._library.get_result(self._pointer)
        return _OwnResult(self._binding, pointer) if pointer else None

    def put_copy_end(self, reason: str) -> None:
        """Make a COPY FROM STDIN fail with `reason`."""
        self._succeeded(self._binding.put_copy_end(self._pointer, reason.encode()) >= 0)

    def cancelling(self) -> Callable[[], None]:
        """Return a function that asks the server to cancel. It may block, works in any thread, and never raises.

        It has its own copy of what it needs, so the connection may be closed in the meantime.
        """
        binding = self._binding
        request = binding.cancel_create(self._pointer) if self._pointer else None

        def cancel() -> None:
            if request:
                binding.cancel_blocking(request)
                binding.cancel_finish(request)

        return cancel

    def finish(self) -> None:
        """Close the connection properly."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            # Do this first: once libpq has freed the memory, another connection can have the same address.
            _connections.pop(pointer, None)
            self._library.finish(pointer)

    def _succeeded(self, answer: int) -> None:
        if not answer:
            raise PqError(text_of(self._library.error_message(self._pointer)))


_connections: dict[int, ref[Connection]] = {}
"""The connections by their address in memory, which libpq passes to `_receive`."""


def _receive(connection: int | None, result: int | None) -> None:
    """Pass a notice to its connection's handler. libpq frees the result afterwards."""
    known = _connections.get(connection or 0)
    found = None if known is None else known()
    if found is not None and found.notice_handler is not None and result:
        found.notice_handler(_Result(found._binding, result))  # noqa: SLF001 - of this module


class _Result(Refusal):
    """A result in libpq's memory."""

    def __init__(self, binding: Binding, pointer: int) -> None:
        super().__init__(binding.library, pointer)
        self._binding = binding
        # It does not change, and is read often.
        self.status: int = binding.library.result_status(pointer)

    @property
    def command_status(self) -> bytes | None:
        value: bytes | None = self._binding.command_status(self._pointer)
        return value

    @property
    def ntuples(self) -> int:
        return int(self._library.ntuples(self._pointer))

    @property
    def nfields(self) -> int:
        return int(self._library.nfields(self._pointer))

    def get_value(self, row_number: int, column_number: int, /) -> bytes | None:
        # libpq would issue a notice about a row or column that does not exist.
        if not (0 <= row_number < self.ntuples and 0 <= column_number < self.nfields):
            return None
        value: bytes = self._library.getvalue(self._pointer, row_number, column_number)
        return None if not value and self._library.getisnull(self._pointer, row_number, column_number) else value


class _OwnResult(_Result):
    """A result that is freed when nothing refers to it any more."""

    def __del__(self) -> None:
        pointer, self._pointer = self._pointer, None
        if pointer:
            self._library.clear(pointer)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
