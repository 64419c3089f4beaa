"""The relay: a local port through which another migration tool reaches the server while we hold the lock.

It passes bytes on in both directions, and parses only the beginning of a session. Before the tool's first query passes,
it gives the session a name and has it take the locks by which the next holder finds it (migration/lock/eviction.py).
The relay's threads and sockets belong to this process, so all connections end when the process ends, however it does.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import NamedTuple

from entrypoint import logs
from entrypoint.database.answers import StatementError
from entrypoint.database.sqlstate import ADMIN_SHUTDOWN, CANNOT_ESTABLISH_CONNECTION, INVALID_PASSWORD
from entrypoint.deadline import Deadline
from entrypoint.errors import EntrypointError
from entrypoint.memory import file_in_memory
from entrypoint.migration.lock.eviction import admission, evict, session_name
from entrypoint.redaction import foreign, know_for_now
from entrypoint.tool import login, variables, wire
from entrypoint.tool.addresses import with_password
from entrypoint.tool.encryption import UnusableFileError
from entrypoint.tool.pump import pump
from entrypoint.tool.upstream import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Protocol

    from entrypoint.migration.lock.lease import Lease

    class Address(Protocol):
        """The database's address."""

        @property
        def conninfo(self) -> str:
            """The address as written; empty if libpq's `PG*` variables are used."""

    class Order(Protocol):
        """What the relay needs to know about the tool."""

        @property
        def environ(self) -> Mapping[bytes, bytes]:
            """The application's environment."""

        @property
        def address(self) -> Address:
            """The address for migrations."""

        @property
        def token(self) -> str:
            """The lock's token."""

        @property
        def password(self) -> Callable[[Deadline], str] | None:
            """Issues a password for each connection, if there is a command for that; may raise EntrypointError."""

        @property
        def pooled(self) -> bool:
            """Whether a pooler is between us and the server."""


HOST = "127.0.0.1"
_BACKLOG = 128
# Seconds for a client to send its startup message, for connecting to the server, and for the login, in which the server
# may have to ask another one (LDAP, for example).
_STARTUP = 30.0
_CONNECT = 10.0
_LOGIN = 60.0
# Seconds for our own statements in the tool's session. Another contender can have the key while it takes the row.
_ADMISSION = 10.0
_CHECKS_SINCE = 140_000

_LOST = "the migration lock is no longer held, so this connection was closed"


class Way(NamedTuple):
    """How a tool reaches the server."""

    environ: dict[bytes, bytes]
    """The tool's environment."""
    note: str
    """Why there is no relay; empty if there is one."""
    close: Callable[[float], None]
    """Closes all connections, and ends the tool's sessions in the server within that many seconds. Never raises."""
    unused: Callable[[], bool]
    """Tells whether there is a relay, and nothing has connected to it so far."""


def open_way(order: Order, lease: Lease) -> Way:
    """Prepare the tool's way to the server, through a relay if possible. Raises ConnectionLostError and OSError."""
    name = session_name(order.token)
    address = order.address.conninfo
    public, secret = lease.worker.parameters()
    checks = lease.worker.server_version >= _CHECKS_SINCE
    note, encrypted = _why_no_relay(order, lease, public)
    if note:
        environ = variables.named_only(order.environ, address, name, pooled=order.pooled, checks=checks)
        return Way(environ, note, lambda seconds: _end_sessions(lease, order.token, seconds), lambda: False)
    host, port, database = lease.worker.whereabouts()
    parameters = {**public, "sslpassword": secret.get("sslpassword", "")}
    server = Server(host, public.get("hostaddr", ""), port, public.get("sslmode", "prefer"), encrypted, parameters)
    user = public.get("user", "")
    issue = _issue(order, user)
    relay = Relay(server, lease, name, database, variables.CLIENT_CHECK if checks else "", issue)
    known = variables.OwnConnection(host, user, database, secret.get("password", ""))
    if issue is not None:
        known = known._replace(password=issue.key, issued=True)
        address = with_password(address, issue.key) if address else ""
    environ, spelled = variables.direct(order.environ, address, name, known, (HOST, relay.port))
    file = _in_memory(spelled) if spelled and variables.files_in(environ) else -1
    for variable in variables.files_in(environ) if file >= 0 else ():
        environ[variable] = f"/proc/{os.getpid()}/fd/{file}".encode()

    def close(seconds: float) -> None:
        if relay.close():
            if file >= 0:
                os.close(file)
            _end_sessions(lease, order.token, seconds)

    return Way(environ, "", close, lambda: not relay.used)


def _issue(order: Order, user: str) -> login.PasswordIssuer | None:
    """Return how to issue passwords for the tool's connections, if there is a command for that."""
    issuing = order.password
    if issuing is None:
        return None
    key = os.urandom(16).hex()
    know_for_now([key])
    return login.PasswordIssuer(user, lambda: issuing(Deadline(_CONNECT)), key)


def _why_no_relay(order: Order, lease: Lease, public: Mapping[str, str]) -> tuple[str, bool]:
    """Return why a relay is impossible (empty if it is not), and whether our own session is encrypted."""
    if order.pooled:
        return "there is a pooler between here and the server", False
    if public.get("channel_binding") == "require":
        return "channel_binding=require needs the tool's own TLS connection", False
    try:
        rows = lease.worker.query(
            "SELECT a.ssl, a.gss_auth OR a.gss_enc FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a",
            Deadline(_CONNECT),
        )[-1]
    except StatementError:
        return "", False
    encrypted, kerberos = rows[0]
    if kerberos == "t":
        return "Kerberos does not work under another host's name", encrypted == "t"
    if encrypted == "t" and not _has_tls():
        return "this Python has no TLS (the ssl module is missing)", True
    return "", encrypted == "t"


def _has_tls() -> bool:
    """Tell whether this Python has TLS. It can be built without, and libpq brings its own."""
    try:
        import ssl  # noqa: F401 - to see whether it can be imported
    except ImportError:
        return False
    return True


def _in_memory(text: str) -> int:
    """Return a descriptor of an in-memory file with `text`. It goes away with this process."""
    file = file_in_memory("entrypoint")
    os.write(file, os.fsencode(text))
    return file


def _end_sessions(lease: Lease, token: str, seconds: float) -> None:
    """End the tool's sessions in the server. Its process is gone, but one of its statements may still be running."""
    deadline = Deadline(seconds)
    try:
        if seconds and lease.worker.usable:
            lease.worker.rollback(deadline)
            evict(lease.worker, lease.place, lease.role, lease.guard_pid, deadline, token)
    except EntrypointError as error:
        logs.event(logs.DEBUG, "command.sessions_unknown", f"cannot look for the command's sessions: {error}")


class Relay:
    """Listens, and serves each client in its own thread."""

    def __init__(
        self,
        server: Server,
        lease: Lease,
        name: str,
        database: str,
        setting: str,
        issue: login.PasswordIssuer | None,
    ) -> None:
        """Start listening. Raises OSError."""
        self._issue = issue
        self._server = server
        self._lease = lease
        self._name = name
        self._database = database
        self._setting = setting
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        self.used = False
        """Whether anybody has connected."""
        self._listener = socket.create_server((HOST, 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=logs.carried(self._accept), name="relay", daemon=True).start()

    def close(self) -> bool:
        """Cut all connections; return False if that was already done."""
        with self._lock:
            if self._closed.is_set():
                return False
            self._closed.set()
            cut = [self._listener, *self._open]
        for sock in cut:
            _cut(sock)
        return True

    def _accept(self) -> None:
        with self._listener:
            while not self._closed.is_set():
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    if self._closed.is_set():
                        return
                    # Out of descriptors: wait for clients to leave.
                    select.select((), (), (), 0.1)
                    continue
                self.used = True
                threading.Thread(target=logs.carried(self._serve), args=(client,), name="relayed", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with self._registered(client):
                if _may_use(client):
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    client.settimeout(_STARTUP)
                    self._begin(client)
        except (OSError, ValueError, wire.ProtocolError, UnusableFileError) as error:
            if not self._closed.is_set():
                logs.event(
                    logs.DEBUG, "command.connection", f"a connection of the command ended: {foreign(str(error))}"
                )
        except Exception as error:  # noqa: BLE001 - a bug of ours must not put a traceback into the log
            told = f"{type(error).__name__}: {foreign(str(error))}"
            logs.event(logs.WARNING, "command.connection", f"a connection of the command failed: {told}")

    @contextlib.contextmanager
    def _registered(self, sock: socket.socket) -> Iterator[None]:
        """Register a socket, so that `close` cuts it, and close it in the end."""
        with self._lock:
            closed = self._closed.is_set()
            self._open.add(sock)
        try:
            if closed:
                raise wire.ProtocolError("closed")
            yield
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _begin(self, client: socket.socket) -> None:
        stream = wire.Stream(client)
        code, body = stream.startup()
        while code in (wire.SSL_REQUEST, wire.GSSENC_REQUEST):
            client.sendall(wire.REFUSED)
            code, body = stream.startup()
        try:
            upstream = self._server.connect(_CONNECT)
        except (OSError, ValueError, wire.ProtocolError, UnusableFileError) as error:
            hint = error.remedy if isinstance(error, UnusableFileError) else ""
            client.sendall(
                wire.error(
                    CANNOT_ESTABLISH_CONNECTION, f"entrypoint cannot reach the server: {foreign(str(error))}", hint
                )
            )
            raise
        with self._registered(upstream):
            if code == wire.CANCEL_REQUEST:
                upstream.sendall(wire.cancel_message(body))
                # The server closes the connection once it has handled the request.
                upstream.recv(1)
                return
            parameters = wire.with_name(wire.startup_parameters(body), self._name, self._setting)
            client.settimeout(_LOGIN)
            upstream.settimeout(_LOGIN)
            answers = wire.Stream(upstream)
            issue = self._issue
            if issue is not None and parameters.get(b"user") == os.fsencode(issue.user):
                if not _logged_in_for(client, stream, upstream, answers, wire.startup_message(code, parameters), issue):
                    return
            else:
                upstream.sendall(wire.startup_message(code, parameters))
            ready = _logged_in(client, stream, upstream, answers)
            if ready and self._admitted(client, upstream, answers):
                client.sendall(ready + answers.rest)
                upstream.sendall(stream.rest)
                pump(client, upstream)

    def _admitted(self, client: socket.socket, upstream: socket.socket, answers: wire.Stream) -> bool:
        """Have the session take its locks, and tell whether our guard still holds its lock then.

        If not, the client gets an error.
        """
        guard = self._lease.guard_backend()
        granted, why = False, _LOST
        if guard:
            upstream.settimeout(_ADMISSION)
            sql = admission(self._lease.place, self._database, guard)
            upstream.sendall(wire.message(b"Q", sql.encode() + b"\0"))
            while True:
                kind, body = answers.message()
                if kind == b"D":
                    granted = wire.first_value(body) == b"t"
                elif kind == b"E":
                    granted, why = False, f"the session could not take its locks: {wire.error_text(body)}"
                    client.sendall(wire.error(ADMIN_SHUTDOWN, f"entrypoint: {why}"))
                    return False
                elif kind == b"S":
                    client.sendall(wire.message(kind, body))
                elif kind == b"Z":
                    break
        if not granted:
            client.sendall(wire.error(ADMIN_SHUTDOWN, f"entrypoint: {why}"))
        return granted


def _logged_in(client: socket.socket, stream: wire.Stream, upstream: socket.socket, answers: wire.Stream) -> bytes:
    """Pass a login on, message by message; return the server's ReadyForQuery. Empty if the login failed."""
    while True:
        kind, body = answers.message()
        if kind == b"Z":
            return wire.message(kind, body)
        asks = wire.Authentication(body) if kind == b"R" else None
        client.sendall(wire.message(kind, asks.body if asks else body))
        if kind == b"E":
            return b""
        if asks and asks.awaits_answer:
            answer, secret = stream.message()
            # Nothing else may pass, because the session has not taken its locks yet.
            if answer != b"p":
                return b""
            upstream.sendall(wire.message(answer, secret))


def _logged_in_for(
    client: socket.socket,
    stream: wire.Stream,
    upstream: socket.socket,
    answers: wire.Stream,
    beginning: bytes,
    issue: login.PasswordIssuer,
) -> bool:
    """Log in to the server with an issued password for a client that presents the key. If that fails, tell it why."""
    if not login.shows_key(client, stream, issue.key):
        client.sendall(
            wire.error(INVALID_PASSWORD, "entrypoint: the password must be the one in DATABASE_URL or PGPASSWORD")
        )
        return False
    try:
        password = issue.password()
        upstream.sendall(beginning)
        login.log_in(upstream, answers, issue.user, password)
    except EntrypointError as error:
        client.sendall(wire.error(CANNOT_ESTABLISH_CONNECTION, f"entrypoint: {error.message}"))
        logs.event(logs.WARNING, "command.no_password", f"a connection of the command was refused: {error.message}")
        return False
    except login.RefusedError as refused:
        client.sendall(refused.message)
        return False
    client.sendall(wire.LET_IN)
    return True


def _cut(sock: socket.socket) -> None:
    """End a connection, whichever thread is waiting for it."""
    with contextlib.suppress(OSError):
        # Not an encrypted socket's own method, which would wait for the other side.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _may_use(client: socket.socket) -> bool:
    """Tell whether a client belongs to our user, by proc_net_tcp(5): others must not use our client certificate."""
    if os.geteuid() == 0:
        return True  # The tool may have become another user.
    host, port = client.getpeername()
    there = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
    try:
        with open("/proc/net/tcp", encoding="ascii") as table:
            users = [line.split()[7] for line in table if line.split()[1] == there]
    except OSError:
        return True
    return all(user in ("0", str(os.geteuid())) for user in users)
