"""Pass bytes between two sockets, both ways, until one side ends."""

from __future__ import annotations

import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CHUNK = 1 << 18
# Seconds for one side to take what is left when the other has ended, and for the client to read a server's last words.
_FLUSH = 5.0
_LAST_WORDS = 1.0
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _Flow:
    """One direction. Everything read is sent before more is read, so a slow reader slows down its writer."""

    def __init__(self, source: socket.socket, sink: socket.socket, blocked: tuple[type[OSError], ...]) -> None:
        self.source, self.sink = source, sink
        self.pending = memoryview(b"")
        self.ended = False
        self.broken = False
        """Whether nothing can be sent any more. What the other side has sent last must still be read."""
        self._blocked = blocked
        # For an encrypted socket: how much it has decrypted but not handed over.
        self._decrypted: Callable[[], int] | None = getattr(source, "pending", None)
        self._buffer = bytearray(_CHUNK)

    @property
    def over(self) -> bool:
        """Whether nothing more will move."""
        return self.ended or self.broken

    @property
    def awaited(self) -> tuple[int, int]:
        """The descriptor and the event that this direction waits for."""
        if self.pending:
            return self.sink.fileno(), select.POLLOUT
        return self.source.fileno(), select.POLLIN

    def step(self) -> None:
        """Move bytes until a call would block."""
        while not self.over:
            try:
                if not self.pending:
                    self._read()
                if self.pending:
                    self._send()
            except self._blocked:
                return
            # Poll does not report bytes that a socket has already decrypted. For other sockets, save the extra read.
            if not self.pending and not (self._decrypted and self._decrypted()):
                return

    def _read(self) -> None:
        try:
            size = self.source.recv_into(self._buffer)
        except ConnectionError:
            size = 0
        self.ended = size == 0
        self.pending = memoryview(self._buffer)[:size]

    def _send(self) -> None:
        try:
            self.pending = self.pending[self.sink.send(self.pending) :]
        except self._blocked:
            raise
        except OSError:
            self.broken = True


def pump(client: socket.socket, server: socket.socket) -> None:
    """Pass on what comes, both ways, until one side has ended. Raises OSError."""
    client.setblocking(False)  # noqa: FBT003 - the signature is not ours
    server.setblocking(False)  # noqa: FBT003
    blocked = _blocked(server)
    asked, answered = _Flow(client, server, blocked), _Flow(server, client, blocked)
    _alternate((asked, answered))
    flow = answered if answered.ended else asked
    flow.sink.settimeout(_FLUSH)
    if flow.pending and not flow.broken:
        flow.sink.sendall(flow.pending)
    if flow is answered:
        # If we closed the connection with unread data in it, the client would lose what it has not read yet.
        client.shutdown(socket.SHUT_WR)
        client.settimeout(_LAST_WORDS)
        while client.recv(_CHUNK):
            pass


def _blocked(server: socket.socket) -> tuple[type[OSError], ...]:
    """Return the exceptions that a call raises if it would block."""
    if type(server) is socket.socket:
        return (BlockingIOError,)
    import ssl

    return (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _alternate(flows: Sequence[_Flow]) -> None:
    """Let each flow step when its event has come, until one has ended or all are broken.

    To keep a tool's round trips fast, each step takes only a poll, a read and a write. So events are registered with
    the kernel only when they change, and a flow without an event is not tried.
    """
    poll = select.poll()
    for flow in flows:  # The login may have read beyond its last message.
        flow.step()
    told: dict[int, int] = {}
    while not any(flow.ended for flow in flows) and not all(flow.broken for flow in flows):
        wanted: dict[int, int] = {}
        for flow in flows:
            if not flow.broken:
                descriptor, event = flow.awaited
                wanted[descriptor] = wanted.get(descriptor, 0) | event
        if wanted != told:
            _tell(poll, told, wanted)
            told = wanted
        ready = dict(poll.poll())
        for flow in flows:
            descriptor, event = flow.awaited
            if not flow.broken and ready.get(descriptor, 0) & (event | _GONE):
                flow.step()


def _tell(poll: select.poll, told: Mapping[int, int], wanted: Mapping[int, int]) -> None:
    for descriptor in told.keys() - wanted.keys():
        poll.unregister(descriptor)
    for descriptor, events in wanted.items():
        poll.register(descriptor, events)
