"""Bytes from one socket to another and back, until one of them ends."""

from __future__ import annotations

import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CHUNK = 1 << 18
# For the other side to take what is left when one has ended, and to read the last words of a server that has.
_FLUSH = 5.0
_LAST_WORDS = 1.0


class _Flow:
    """One direction. What has been read is sent before more is read, so a slow reader holds its writer up."""

    def __init__(self, source: socket.socket, sink: socket.socket, blocked: tuple[type[OSError], ...]) -> None:
        self.source, self.sink = source, sink
        self.pending = memoryview(b"")
        self.ended = False
        self.broken = False
        """Whether nothing can be sent any more. Then what the other side has said last is still to be read."""
        self._blocked = blocked
        self._buffer = bytearray(_CHUNK)

    def step(self) -> bool:
        """Go on as far as one call goes; tell whether anything has moved."""
        if self.broken:
            return False
        try:
            if not self.pending:
                size = self.source.recv_into(self._buffer)
                self.ended = size == 0
                self.pending = memoryview(self._buffer)[:size]
        except self._blocked:
            return False
        except ConnectionError:
            self.ended = True
        try:
            if self.pending:
                self.pending = self.pending[self.sink.send(self.pending) :]
        except self._blocked:
            return False
        except OSError:
            self.broken = True
        return not self.ended


def pump(client: socket.socket, server: socket.socket) -> None:
    """Pass on what comes, both ways, until one side has ended. Raises OSError."""
    client.setblocking(False)  # noqa: FBT003 - the signature is not ours
    server.setblocking(False)  # noqa: FBT003
    blocked = _blocked(server)
    asked, answered = _Flow(client, server, blocked), _Flow(server, client, blocked)
    flows = (asked, answered)
    while not any(flow.ended for flow in flows) and not all(flow.broken for flow in flows):
        moved = [flow.step() for flow in flows]
        if not any(moved) and not any(flow.ended for flow in flows):
            _wait([flow for flow in flows if not flow.broken])
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


def _wait(flows: Iterable[_Flow]) -> None:
    poll = select.poll()
    events: dict[int, int] = {}
    for flow in flows:
        waited, event = (flow.sink, select.POLLOUT) if flow.pending else (flow.source, select.POLLIN)
        events[waited.fileno()] = events.get(waited.fileno(), 0) | event
    for descriptor, event in events.items():
        poll.register(descriptor, event)
    if events:
        poll.poll()
