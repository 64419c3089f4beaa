"""Bytes from one socket to another and back, until one of them ends."""

from __future__ import annotations

import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CHUNK = 1 << 18
# For the other side to take what is left when one has ended, and to read the last words of a server that has.
_FLUSH = 5.0
_LAST_WORDS = 1.0
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _Flow:
    """One direction. What has been read is sent before more is read, so a slow reader holds its writer up."""

    def __init__(self, source: socket.socket, sink: socket.socket, blocked: tuple[type[OSError], ...]) -> None:
        self.source, self.sink = source, sink
        self.pending = memoryview(b"")
        self.ended = False
        self.broken = False
        """Whether nothing can be sent any more. Then what the other side has said last is still to be read."""
        self._blocked = blocked
        # Of a socket that encrypts: how much it has decrypted and not handed over.
        self._decrypted: Callable[[], int] | None = getattr(source, "pending", None)
        self._buffer = bytearray(_CHUNK)

    @property
    def over(self) -> bool:
        """Whether nothing more will move."""
        return self.ended or self.broken

    @property
    def awaited(self) -> tuple[int, int]:
        """The descriptor that this waits for, and the event."""
        if self.pending:
            return self.sink.fileno(), select.POLLOUT
        return self.source.fileno(), select.POLLIN

    def step(self) -> None:
        """Go on until a call would have to wait."""
        while not self.over:
            try:
                if not self.pending:
                    self._read()
                if self.pending:
                    self._send()
            except self._blocked:
                return
            # What a socket has decrypted already, no poll tells of. From others a read too many is a call too many.
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
        # Closed with something unread, the connection would lose what the client has not read either.
        client.shutdown(socket.SHUT_WR)
        client.settimeout(_LAST_WORDS)
        while client.recv(_CHUNK):
            pass


def _blocked(server: socket.socket) -> tuple[type[OSError], ...]:
    """Return what a call raises that would have to wait."""
    if type(server) is socket.socket:
        return (BlockingIOError,)
    import ssl

    return (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _alternate(flows: Sequence[_Flow]) -> None:
    """Let each flow step when what it waits for has come, until one has ended or all are broken.

    A tool's round trip is two steps, each a poll, a read and a write; so what is waited for is told to the kernel only
    when it changes, and whichever flow is not awaited is not asked.
    """
    poll = select.poll()
    for flow in flows:  # What a login has read too far.
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
