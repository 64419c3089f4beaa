"""A TCP proxy between a client and PostgreSQL that fails on demand and counts round trips.

    with Proxy(server.port) as proxy:
        url = database.url_at(proxy.port)
        proxy.when_client_sends(b"COMMIT", Proxy.cut)     # the commit gets through, its answer does not

It runs in its own thread. Tests and hooks may call its methods, which have taken effect when they return. Connections
must be unencrypted: `sslmode=disable&gssencmode=disable`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from demo.postgres import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any, Self

    Action = Callable[["Proxy"], object]

TERMINATE = b"X\x00\x00\x00\x04"
CANCEL_REQUEST = struct.pack("!ii", 16, 80877102)
# Larger than any message in a test. Data that a deaf or slow peer has not accepted stays with the sender.
BUFFER = 1 << 20


@dataclass
class Hook:
    """An action to run once, when a pattern passes."""

    pattern: bytes
    action: Action
    deliver: bool
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Traffic:
    """Counts what has passed over one connection so far."""

    bytes_sent: int = 0
    bytes_received: int = 0
    cancel: bool = False
    round_trips: int = 0
    _login: bytes = b""
    _logged_in: bool = False
    _clients_turn: bool = False

    def sent(self, data: bytes) -> None:
        """Count what the client sends."""
        if self.bytes_sent == 0 and data.startswith(CANCEL_REQUEST):
            self.cancel = True
        self.bytes_sent += len(data)
        # Terminate has no answer.
        if self._clients_turn and data != TERMINATE:
            self.round_trips += 1
            self._clients_turn = False

    def received(self, data: bytes) -> None:
        """Count what the server sends. Round trips count from the ReadyForQuery that ends the login."""
        self.bytes_received += len(data)
        if self._logged_in:
            self._clients_turn = True
            return
        self._login += data
        while len(self._login) >= 5:
            kind, length = struct.unpack("!ci", self._login[:5])
            if len(self._login) < 1 + length:
                return
            self._login = self._login[1 + length :]
            if kind == b"Z":
                self._logged_in = self._clients_turn = True
                return


class Link:
    """One connection: the client's side, the server's side, and what is held back between them."""

    def __init__(self, proxy: Proxy) -> None:
        """Prepare both sides. They report when they are connected."""
        self.proxy = proxy
        self.traffic = Traffic()
        self.reached = False
        self.client = Side(self, proxy.client_hooks, self.traffic.sent)
        self.server = Side(self, proxy.server_hooks, self.traffic.received)
        self.client.peer, self.server.peer = self.server, self.client

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both sides."""
        return self.client, self.server

    def reset(self) -> None:
        """Close both sides with RST, as a firewall or a crashed machine would."""
        for side in self.sides:
            side.reset()


class Side(asyncio.Protocol):
    """One side of a connection: reads, searches for patterns, and forwards the data to its peer."""

    peer: Side

    def __init__(self, link: Link, hooks: list[Hook], note: Callable[[bytes], None]) -> None:
        """Prepare the side; `hooks` and `note` are for the data that it sends."""
        self.link = link
        self.hooks = hooks
        self.note = note
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self._seen = b""  # the last bytes that have passed: a pattern may be split
        self._held = b""  # data for this side, until it is connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start reading, and forward what the peer sent before we were connected."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=BUFFER)
        if self is self.link.client:
            self.link.proxy.arrived(self.link)
        elif self.closed:
            transport.abort()
            return
        self.attend()
        if self._held:
            held, self._held = self._held, b""
            transport.write(held)

    def attend(self) -> None:
        """Read, or stop reading if the proxy is deaf."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.link.proxy.deaf:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Forward what this side sent, and run a matching hook."""
        hook = self._matching(data)
        if hook is None or hook.deliver:
            self._pass_on(data)
        if hook is not None:
            self.hooks.remove(hook)
            try:
                hook.action(self.link.proxy)
            finally:
                hook.done.set()

    def _matching(self, data: bytes) -> Hook | None:
        window = self._seen + data
        longest = max((len(hook.pattern) for hook in self.hooks), default=1)
        self._seen = window[-(longest - 1) :] if longest > 1 else b""
        return next((hook for hook in self.hooks if hook.pattern in window), None)

    def _pass_on(self, data: bytes) -> None:
        self.note(data)
        self.peer.take(data)

    def take(self, data: bytes) -> None:
        """Write to this side, or hold the data back until it is connected."""
        if self.transport is None:
            self._held += data
        elif not self.closed:
            self.transport.write(data)

    def pause_writing(self) -> None:
        """Stop reading from the peer: this side accepts no more data."""
        if self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Continue to read from the peer."""
        self.peer.attend()

    def eof_received(self) -> bool:
        """Close both sides when one ends: libpq and PostgreSQL never close only one direction."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Close the peer in the same way as this side, after sending it the remaining data."""
        self.closed = self.peer.closed = True
        if self.peer.transport is None:
            return
        if error is None:
            self.peer.transport.close()
        else:
            self.peer.reset()

    def reset(self) -> None:
        """Close with RST (SO_LINGER with a time of zero)."""
        self.closed = True
        if self.transport is None:
            return
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Proxy:
    """The proxy and its switches. It forwards everything until told otherwise."""

    def __init__(self, target: int, port: int = 0) -> None:
        """Prepare a proxy to the port `target` of 127.0.0.1; `port`: its own, by default a free one."""
        self.target = target
        self.port = port or free_port()
        self.deaf = False
        self.client_hooks: list[Hook] = []
        self.server_hooks: list[Hook] = []
        self.links: list[Link] = []
        self._failures: list[BaseException] = []
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._failed)
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread and listen."""
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cut open connections and end the thread; raise what an action has raised."""
        self.refuse()
        self.cut()
        asyncio.run_coroutine_threadsafe(self._settle(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        if self._failures:  # it is probably the cause of the test's own error, if there is one
            raise self._failures[0]

    # Switches

    def accept(self) -> None:
        """Listen, on the same port as before."""
        self._do(self._accept)

    def refuse(self) -> None:
        """Stop listening: new connections are refused, but open ones continue."""
        self._do(self._refuse)

    def deafen(self) -> None:
        """Accept connections but read nothing, on either side: they stay open, and no data passes."""
        self._do(self._deafen)

    def hear(self) -> None:
        """Forward again, beginning with what was sent in the meantime."""
        self._do(self._hear)

    def cut(self) -> None:
        """Close all open connections with RST on both sides; new ones are accepted."""
        self._do(self._cut)

    # Hooks

    def when_client_sends(self, pattern: bytes, action: Action, *, deliver: bool = True) -> threading.Event:
        """Run `action(proxy)` once, when the client sends `pattern`; return an event that is then set.

        With `deliver`, the server still gets it. Without it, everything that was read together with it is lost.
        """
        return self._hook(self.client_hooks, Hook(pattern, action, deliver))

    def when_server_sends(self, pattern: bytes, action: Action, *, deliver: bool = False) -> threading.Event:
        """Run `action(proxy)` once, when the server sends `pattern`; return an event that is then set.

        Without `deliver`, the client gets neither the pattern nor what was read together with it.
        """
        return self._hook(self.server_hooks, Hook(pattern, action, deliver))

    # Counts

    @property
    def connections(self) -> int:
        """How many connections have been accepted, not counting cancel requests."""
        return sum(not link.traffic.cancel for link in self.links)

    @property
    def cancels(self) -> int:
        """How many cancel requests have arrived."""
        return sum(link.traffic.cancel for link in self.links)

    @property
    def open(self) -> int:
        """How many connections are open."""
        return sum(not link.client.closed for link in self.links)

    @property
    def round_trips(self) -> list[int]:
        """For each connection, how often the client has sent something after the server, since the end of its login."""
        return [link.traffic.round_trips for link in self.links if not link.traffic.cancel]

    # In the thread

    def arrived(self, link: Link) -> None:
        """Add a new connection and, unless deaf, connect to the server."""
        self.links.append(link)
        if not self.deaf:
            self._reach(link)

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep what an action has raised; asyncio itself would only log it."""
        self._failures.append(context.get("exception") or RuntimeError(context["message"]))

    def _do(self, change: Callable[[], None]) -> None:
        """Run `change` in the proxy's thread, and wait until it is done."""
        if threading.current_thread() is self._thread:
            change()
            return

        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _hook(self, hooks: list[Hook], hook: Hook) -> threading.Event:
        self._do(lambda: hooks.append(hook))
        return hook.done

    def _accept(self) -> None:
        if self._listener is not None:
            return
        # Not loop.create_server, because that is a coroutine, and hooks cannot await one.
        self._listener = socket.create_server((HOST, self.port), backlog=128)
        self._listener.settimeout(0)
        self._loop.add_reader(self._listener, self._take_connection, self._listener)

    def _take_connection(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        link = Link(self)
        self._spawn(self._loop.connect_accepted_socket(lambda: link.client, connection))

    def _refuse(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _deafen(self) -> None:
        self.deaf = True
        self._attend()

    def _hear(self) -> None:
        self.deaf = False
        for link in self.links:
            if not link.reached and not link.client.closed:
                self._reach(link)
        self._attend()

    def _attend(self) -> None:
        for link in self.links:
            for side in link.sides:
                side.attend()

    def _cut(self) -> None:
        for link in self.links:
            link.reset()

    def _reach(self, link: Link) -> None:
        async def connect() -> None:
            try:
                await self._loop.create_connection(lambda: link.server, HOST, self.target)
            except OSError:
                link.client.reset()

        link.reached = True
        self._spawn(connect())

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself only keeps weak references
        task.add_done_callback(self._tasks.discard)

    async def _settle(self) -> None:
        """Wait until everything is closed, so that no socket outlives the loop."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._cut()
        for _ in range(3):
            await asyncio.sleep(0)
