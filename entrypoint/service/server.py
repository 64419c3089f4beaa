"""The process: listens, answers, and ends within two seconds of SIGTERM, whoever hangs on to it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time

import uvicorn

from entrypoint import logs, signals
from entrypoint.errors import ConfigurationError, DatabaseUnavailableError
from entrypoint.service import snapshot, tokens
from entrypoint.service.access import Access
from entrypoint.service.api import Service
from entrypoint.service.app import build_app
from entrypoint.service.backups import Backups
from entrypoint.service.cache import Cache
from entrypoint.service.connections import LONGEST_HEAD, TO_ASK_AGAIN, Connection, quiet_uvicorn
from entrypoint.service.reader import Reader
from entrypoint.service.tokens import Tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from entrypoint.service.snapshot import Snapshot
    from entrypoint.settings import ServiceSettings, Settings

_BACKLOG = 128
# From the signal: so long requests may go on, and then their connections are ended.
_GRACE = 0.6


def serve(settings: Settings, service: ServiceSettings) -> None:
    """Answer until SIGTERM or SIGINT. Raises EntrypointError if it cannot begin."""
    gc.enable()  # Off since the first line of __main__.
    reader = Reader(settings)
    reader.files()
    listeners = listen(service.host, service.port)
    try:
        asyncio.run(_serve(settings, service, reader, listeners))
    finally:
        reader.leave()
        for listener in listeners:
            listener.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listeners on all addresses that `host` has. Raises ConfigurationError."""
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
            listeners.append(listener)
            # Its connections inherit it. An answer goes out in two pieces, and the second would wait for the client to
            # acknowledge the first, which takes 40 ms. (asyncio sees to that only where a socket says it is TCP's.)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ConfigurationError(
            f"Cannot listen on {host}, port {port}: {_reason(error)}",
            remedy="Set STATUS_HOST to an address of this machine, and STATUS_PORT to a port that nobody else has.",
            host=host,
            port=port,
        ) from None
    return listeners


def _reason(error: OSError) -> str:
    """Return why there is no listener. Python adds the address to some texts, and names have errors of their own."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


class _Server(uvicorn.Server):
    """uvicorn's server, whose end is ours to bring about."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to `signals`."""
        yield

    def drop_connections(self) -> None:
        """End all connections, whatever they are at."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.drop()


async def _serve(
    settings: Settings, about: ServiceSettings, reader: Reader, listeners: Sequence[socket.socket]
) -> None:
    loop = asyncio.get_running_loop()
    backups = Backups(settings.backup_dir)
    ending = asyncio.Event()

    def late(seconds: float) -> Snapshot:
        error = DatabaseUnavailableError(
            f"No answer from the database for {seconds:.0f} s",
            remedy="Check that PostgreSQL is running and reachable from here; the service goes on asking.",
        )
        return snapshot.of_failure(error, database=reader.database, taken=time.time() - seconds)

    service = Service(
        cache=Cache(reader.read, late, reader.longest),
        access=Access(Tokens(about.tokens)),
        backups=backups,
        public_badge=about.public_badge,
        reads=lambda: reader.reads,
        ending=ending,
    )
    server = _Server(
        uvicorn.Config(
            build_app(service),
            http=Connection,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            timeout_keep_alive=TO_ASK_AGAIN,
            timeout_graceful_shutdown=1,
        )
    )
    quiet_uvicorn()

    def end(signum: int) -> None:
        logs.event(logs.INFO, "service.stopping", f"{signal.Signals(signum).name}: stopping")
        server.should_exit = True
        ending.set()
        backups.terminate()
        loop.call_later(_GRACE, server.drop_connections)

    # Signal handlers run between two steps of whatever the loop is doing.
    signals.hand_to(lambda signum: loop.call_soon_threadsafe(end, signum))
    _tell(about, listeners)
    await server.serve(sockets=list(listeners))
    await backups.end()


def _tell(about: ServiceSettings, listeners: Sequence[socket.socket]) -> None:
    names = [listener.getsockname() for listener in listeners]
    addresses = [f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}" for name in names]
    logs.event(
        logs.INFO,
        "service.listening",
        f"listening on {', '.join(addresses)}, {_door(about)}",
        addresses=addresses,
        tokens=len(about.tokens),
        public_badge="yes" if about.public_badge else "no",
    )
    for number, token in enumerate(about.tokens, start=1):
        if len(token) < tokens.SHORTEST:
            logs.event(
                logs.WARNING,
                "service.short_token",
                f"token {number} has fewer than {tokens.SHORTEST} characters",
                remedy="Take one that cannot be guessed: openssl rand -hex 32",
            )


def _door(about: ServiceSettings) -> str:
    count = len(about.tokens)
    if count == 0:
        return "without a token: open to everybody on this machine"
    return f"with {count} token(s)"
