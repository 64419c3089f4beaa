"""One client's connection, with bounds: of the size of a request's head, of time, and of how many there are.

uvicorn bounds the time between two requests, and no other. So a client that sends a byte now and then, or does not read
its answer, would keep a connection for as long as it likes.
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
# Seconds from a request's first byte, or from the connection, to its end.
TO_ASK = 10.0
# Seconds for an answer that the client does not take.
TO_LISTEN = 10.0
# Seconds between two requests.
TO_ASK_AGAIN = 5
MOST_CONNECTIONS = 256


class Connection(H11Protocol):
    """uvicorn's protocol, and a look at the clock every second."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take what uvicorn makes it from."""
        super().__init__(config, server_state, app_state, _loop)
        self._asking_since: float | None = None
        self._deaf_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Let one more client in, in another's place if there is no room; not in the place of one that we answer."""
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
        """Forget it."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._asking_since is None:
            self._asking_since = self.loop.time()
        super().data_received(data)
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._asking_since = None

    def pause_writing(self) -> None:
        """Note that the client does not take its answer."""
        self._deaf_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that it does again."""
        self._deaf_since = None
        super().resume_writing()

    @property
    def needs_us(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def since(self) -> float:
        """The moment at which it began to ask; the present for one that has asked."""
        return self.loop.time() if self._asking_since is None else self._asking_since

    def drop(self) -> None:
        """End it at once."""
        # Not only in `connection_lost`, later: many clients may come at once, and each is to take another's place.
        self.connections.discard(self)
        self.transport.abort()

    def _look_again(self) -> None:
        now = self.loop.time()
        if self.transport.is_closing() and self._deaf_since is None:
            # It is closed as soon as the client has taken what is left, and one that does not read never does.
            self._deaf_since = now
        asks_too_long = self._asking_since is not None and now - self._asking_since > TO_ASK
        if asks_too_long or (self._deaf_since is not None and now - self._deaf_since > TO_LISTEN):
            self.drop()
        else:
            self._timer = self.loop.call_later(1.0, self._look_again)


def least_needy(connections: set[Any]) -> Connection:
    """Return the connection to end if there are too many: one that is still asking, or idle, the oldest first."""
    found = min(connections, key=lambda one: (one.needs_us, one.since))
    assert isinstance(found, Connection)  # noqa: S101 - for the type checker
    return found


def quiet_uvicorn() -> None:
    """Leave out what uvicorn says of every client that does not speak HTTP: anybody could fill the log with it."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
