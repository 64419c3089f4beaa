"""A client's connection, with limits: on the size of a request's head, on time, and on the number of connections.

uvicorn limits only the time between two requests. A client that sends a byte now and then, or does not read its answer,
could otherwise keep a connection as long as it likes.
"""

from __future__ import annotations

import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.server import ServerState

# Bytes of a request's line and headers.
LONGEST_HEAD = 16_384
# Seconds from the connection, or the first byte of a request, to the end of the request.
TO_ASK = 10.0
# Seconds for a client to read its answer.
TO_LISTEN = 10.0
# Seconds between two requests.
TO_ASK_AGAIN = 5
MOST_CONNECTIONS = 256


class ClientConnection(H11Protocol):
    """uvicorn's protocol, with a look at the clock every second."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take uvicorn's arguments."""
        super().__init__(config, server_state, app_state, _loop)
        self._asking_since: float | None = None
        self._deaf_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Accept a client; if there is no room, drop another one, but none that is being answered."""
        other = least_needy(self.connections) if len(self.connections) >= MOST_CONNECTIONS else None
        super().connection_made(transport)
        if other is not None and other.needs_us:
            self.drop()
            return
        if other is not None:
            other.drop()
        self._asking_since = self.loop.time()
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle received data."""
        if self._asking_since is None:
            self._asking_since = self.loop.time()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._asking_since = None

    def pause_writing(self) -> None:
        """Note that the client has stopped reading its answer."""
        self._deaf_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client is reading again."""
        self._deaf_since = None
        super().resume_writing()

    @property
    def needs_us(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def since(self) -> float:
        """When the current request began; the present if it is complete."""
        return self.loop.time() if self._asking_since is None else self._asking_since

    def drop(self) -> None:
        """End the connection at once."""
        # Do not wait for `connection_lost`: many clients may arrive at once, and each must replace a different one.
        self.connections.discard(self)
        self.transport.abort()

    def _look_again(self) -> None:
        now = self.loop.time()
        if self.transport.is_closing() and self._deaf_since is None:
            # A normal close waits until the client has read everything, and one that does not read never does.
            self._deaf_since = now
        asks_too_long = self._asking_since is not None and now - self._asking_since > TO_ASK
        if asks_too_long or (self._deaf_since is not None and now - self._deaf_since > TO_LISTEN):
            self.drop()
        else:
            self._timer = self.loop.call_later(1.0, self._look_again)


def least_needy(connections: set[Any]) -> ClientConnection:
    """Return the connection to end if there are too many: the oldest that is idle or has not finished its request."""
    found = min(connections, key=lambda one: (one.needs_us, one.since))
    assert isinstance(found, ClientConnection)  # noqa: S101 - for the type checker
    return found


def quiet_uvicorn() -> None:
    """Drop uvicorn's messages about clients that do not speak HTTP: anybody could fill the log with them."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
