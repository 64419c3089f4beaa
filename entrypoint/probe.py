"""Answers health probes on a port until the application is exec'ed, so that nothing kills a migrating container.

This uses one thread and non-blocking sockets instead of http.server, so that the port is free in the end, even for an
application that binds it without SO_REUSEADDR (docs/decisions/0013). TCP keeps the port busy for a minute on the side
that closes a connection first. So we never close first: a client that has its answer closes, and then we do. If it does
not, we reset the connection, which frees the port at once.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import socket
import struct
import threading
import time

from entrypoint import logs, phase
from entrypoint.deadline import joined
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

# More than kubelets and load balancers open at once, but few enough to leave descriptors for the program.
_MOST_CONNECTIONS = 16
_BACKLOG = 64
_LONGEST_REQUEST = 8192
# How many bytes a client may send after its answer, such as the body of a POST. They are discarded.
_MOST_REST = 65_536
# Seconds from the connection to the end of the request.
_PATIENCE = 5.0
# A new connection is not dropped to make room within this time: the request of an honest client is on its way.
_YOUTH = 0.05
# Seconds for a client to close after its answer.
_FAREWELL = 1.0
# Seconds for the kernel to get its FIN acknowledged.
_LAST_ACK = 0.1
# Seconds before the exec for clients that have just got an answer.
_GRACE = 0.01
_STOP = 1.0
_NO_DESCRIPTOR_PAUSE = 0.05

# Makes close() send a reset and free the port at once, whatever the connection's state: socket(7), SO_LINGER.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_REQUEST_LINE = re.compile(rb"([A-Za-z-]+) (?:https?://[^/ ]+)?(/[^ ?#]*)(?:\?[^ ]*)? HTTP/1\.[0-9]\r?")
_END_OF_HEAD = re.compile(rb"\n\r?\n")


def respond(received: bytes) -> bytes | None:
    """Return the answer to a request; None while it is incomplete. Anything but HTTP/1 is a bad request."""
    request = received.lstrip(b"\r\n")
    line, complete, _ = request.partition(b"\n")
    found = _REQUEST_LINE.fullmatch(line)
    if (complete and not found) or (request and not request[:1].isalpha()):
        return _response("400 Bad Request", {"error": "not an HTTP/1.1 request"})
    if len(received) > _LONGEST_REQUEST:
        return _response("431 Request Header Fields Too Large", {"error": f"over {_LONGEST_REQUEST} bytes"})
    if found is None or not _END_OF_HEAD.search(request):
        return None
    return _answer(found[1], found[2])


def _answer(method: bytes, path: bytes) -> bytes:
    head_only = method == b"HEAD"
    if path not in (b"/livez", b"/readyz"):
        return _response("404 Not Found", {"error": "use /livez or /readyz"}, head_only=head_only)
    if method not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", {"error": "GET or HEAD"}, "Allow: GET, HEAD\r\n")
    if path == b"/livez":
        return _response("200 OK", {"status": "alive"}, head_only=head_only)
    return _response("503 Service Unavailable", {"status": "not ready", **phase.report()}, head_only=head_only)


def _response(status: str, body: Mapping[str, object], more: str = "", *, head_only: bool = False) -> bytes:
    content = json.dumps(body, ensure_ascii=False).encode(errors="replace") + b"\n"
    head = (
        f"HTTP/1.1 {status}\r\n"
        # strftime's names are English here: this program never calls setlocale.
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n"
        f"Cache-Control: no-store\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else content)


class _Connection:
    """A client's connection."""

    def __init__(self, client: socket.socket) -> None:
        client.setblocking(False)  # noqa: FBT003 - the signature is not ours
        self.socket = client
        self.began = time.monotonic()
        self.deadline = self.began + _PATIENCE
        self.answered = False
        self.ended = False
        """Whether both the client and we have closed."""
        self._received = b""
        self._rest = 0

    def read(self) -> bool:
        """Read what has arrived, and answer once the request is complete; tell whether to keep the connection."""
        try:
            data = self.socket.recv(_LONGEST_REQUEST + 1)
            if not data:
                return self._end()
            if self.answered:
                self._rest += len(data)
                return self._rest <= _MOST_REST
            self._received += data
            answer = respond(self._received)
            if answer is None:
                return True
            # A kilobyte fits into the empty buffer of a new connection.
            self.answered, self._received = self.socket.send(answer) == len(answer), b""
            self.deadline = time.monotonic() + _FAREWELL
        except BlockingIOError:
            return True
        except OSError:  # The client is gone.
            return False
        return self.answered

    def _end(self) -> bool:
        """Close after the client has closed; keep the connection a moment, as it may only have closed its half."""
        if not self.answered:
            return False
        self.socket.shutdown(socket.SHUT_WR)
        self.ended = True
        self.deadline = time.monotonic() + _LAST_ACK
        return True


class Probe:
    """A context manager that answers on a port. At its end, the port is free."""

    def __init__(self, port: int) -> None:
        """Take the port number. Nothing is opened yet."""
        self._port = port
        self._listener: socket.socket | None = None
        self._connections: list[_Connection] = []
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._wakened = self._waker = -1

    def __enter__(self) -> Self:
        """Listen and answer. If that is not possible, log it and continue without."""
        try:
            self._listener = _listen(self._port)
            self._wakened, self._waker = os.pipe()
            self._thread = threading.Thread(target=self._serve, name="probe", daemon=True)
            # Signals must wake the main thread, not this one.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._thread.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except (OSError, RuntimeError) as error:  # RuntimeError: the thread cannot be started
            self._thread = None
            self._close()
            logs.event(
                logs.WARNING,
                "probe.unavailable",
                f"cannot answer probes on port {self._port}: {getattr(error, 'strerror', None) or error}; continuing "
                "without them",
                port=self._port,
                remedy=_remedy(error),
            )
        else:
            logs.event(logs.DEBUG, "probe.listening", f"answering probes on port {self._port}", port=self._port)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and free the port."""
        if self._thread is None:
            return
        self._stopped = True
        os.write(self._waker, b"!")
        if joined(self._thread, _STOP):  # otherwise, exec closes everything
            self._close()

    def _close(self) -> None:
        """Reset all remaining connections, and close all descriptors."""
        for connection in self._connections:
            connection.socket.close()
        self._connections.clear()
        if self._listener is not None:
            self._listener.close()
        for descriptor in (self._wakened, self._waker):
            if descriptor >= 0:
                os.close(descriptor)

    # The thread.

    def _serve(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            while not self._stopped:
                self._turn(listener, self._patience())
            self._finish(listener)
        except Exception as error:  # noqa: BLE001 - a probe that fails must not disturb a start
            logs.event(
                logs.WARNING,
                "probe.failed",
                f"probes are no longer answered: {foreign(str(error))}",
                port=self._port,
            )
            listener.close()

    def _patience(self) -> float | None:
        """Return the seconds until the next connection's deadline; None without connections."""
        ends = [connection.deadline for connection in self._connections]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _turn(self, listener: socket.socket | None, seconds: float | None) -> None:
        """Wait for events, and handle them."""
        poll = select.poll()
        for connection in self._connections:
            if not connection.ended:
                poll.register(connection.socket, select.POLLIN)
        if listener is not None:
            poll.register(self._wakened, select.POLLIN)
            wait = self._wait_for_room()
            if wait == 0:
                poll.register(listener, select.POLLIN)
            else:
                seconds = wait if seconds is None else min(seconds, wait)
        ready = {descriptor for descriptor, _ in poll.poll(None if seconds is None else seconds * 1000)}
        now = time.monotonic()
        for connection in self._connections[:]:
            kept = connection.read() if connection.socket.fileno() in ready else now < connection.deadline
            if not kept:
                self._drop(connection)
        if listener is not None and listener.fileno() in ready:
            self._accept(listener)

    def _first_to_drop(self) -> _Connection:
        """Return the connection to drop first: one that has its answer, or else the oldest."""
        return min(self._connections, key=lambda one: (not one.ended, not one.answered))

    def _wait_for_room(self) -> float:
        """Return the seconds until another client can be accepted; until then it waits in the kernel's queue."""
        if len(self._connections) < _MOST_CONNECTIONS:
            return 0.0
        one = self._first_to_drop()
        return 0.0 if one.answered else max(0.0, one.began + _YOUTH - time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        """Accept another client; if there is no room, drop one."""
        if len(self._connections) >= _MOST_CONNECTIONS:
            self._drop(self._first_to_drop())
        try:
            client, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(_NO_DESCRIPTOR_PAUSE)
            return
        connection = _Connection(client)
        self._connections.append(connection)
        if not connection.read():
            self._drop(connection)

    def _finish(self, listener: socket.socket) -> None:
        """Stop accepting clients, and give those that have just got their answer a moment to read it and close."""
        listener.close()
        end = time.monotonic() + _GRACE
        while any(one.answered and not one.ended for one in self._connections) and time.monotonic() < end:
            self._turn(None, end - time.monotonic())

    def _drop(self, connection: _Connection) -> None:
        connection.socket.close()
        self._connections.remove(connection)


def _listen(port: int) -> socket.socket:
    """Return a listener on all addresses, IPv6 and IPv4 if available. Raises OSError."""
    try:
        return _bind(socket.AF_INET6, "::", port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        return _bind(socket.AF_INET, "0.0.0.0", port)  # noqa: S104 - probes come from outside


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Bind even if connections of an earlier process linger on the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit this, so that even a sudden end of this process frees the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - the signature is not ours
    except BaseException:
        listener.close()
        raise
    return listener


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "Set MIGRATION_PROBE_PORT to a port that nothing else in the pod or container uses."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        return "Set MIGRATION_PROBE_PORT to 1024 or higher; lower ports are reserved for the superuser."
    return "Check the container's limits. Without MIGRATION_PROBE_PORT, no port is opened."
