"""The process: listens, answers, and ends within two seconds of SIGTERM, whatever its clients do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import time

import uvicorn

from entrypoint import logs, signals
from entrypoint.counts import count
from entrypoint.errors import ConfigurationError, DatabaseUnavailableError
from entrypoint.service import snapshot, tokens
from entrypoint.service.access import Access
from entrypoint.service.api import Service
from entrypoint.service.app import build_app
from entrypoint.service.backups import Backups
from entrypoint.service.cache import Cache
from entrypoint.service.connections import LONGEST_HEAD, TO_ASK_AGAIN, ClientConnection, quiet_uvicorn
from entrypoint.service.reader import StatusReader
from entrypoint.service.tokens import Tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from typing import Any

    from entrypoint.service.snapshot import Snapshot
    from entrypoint.settings import Settings
    from entrypoint.settings.service import ServiceSettings

_BACKLOG = 128
# This machine's name can have an address that it does not have: /etc/hosts has ::1 even if IPv6 is off.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# Seconds after the signal: until then, requests may wait for the database. Then they are told that there will be no
# answer, and after that all connections are closed.
_GRACE = 0.6
_LAST_WORDS = 0.3
# Errors with which a listener cannot accept a client, and how often to log them, in seconds.
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SAY_AGAIN = 60.0


def serve(settings: Settings, service: ServiceSettings) -> None:
    """Answer until SIGTERM or SIGINT. Raises EntrypointError if it cannot start."""
    gc.enable()  # It has been off since the first line of __main__.
    logs.adopt_other_packages()
    reader = StatusReader(settings)
    reader.directory()
    listeners = listen(service.host, service.port)
    try:
        asyncio.run(_serve(settings, service, reader, listeners))
    finally:
        reader.leave()
        for listener in listeners:
            listener.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listeners on all addresses of `host` that this machine has, at least one.

    Raises ConfigurationError.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
            try:
                listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
                continue
            listeners.append(listener)
            # Its connections inherit this. An answer is sent in two parts, and the second would wait for the client to
            # acknowledge the first, which takes 40 ms. (asyncio sets it only for sockets that it knows to be TCP.)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if absent is not None and not listeners:
            raise absent
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ConfigurationError(
            f"Cannot listen on {host}, port {port}: {_reason(error)}",
            remedy="Set STATUS_HOST to an address of this machine, and STATUS_PORT to a free port.",
            host=host,
            port=port,
        ) from None
    return listeners


def _reason(error: OSError) -> str:
    """Return why it cannot listen. Python adds the address to some messages, and host names have their own errors."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


class _Server(uvicorn.Server):
    """uvicorn's server; this module decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to `signals`."""
        yield

    def drop_connections(self) -> None:
        """Close all connections, whatever they are doing."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, ClientConnection):
                connection.drop()


class _Complaints:
    """Logs errors that asyncio reports.

    A listener without free descriptors tries again a second later, and reports that for each place in its queue.
    """

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self._said = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _SCARCE:
            if loop.time() - self._said >= _SAY_AGAIN:
                self._said = loop.time()
                logs.event(
                    logs.WARNING,
                    "service.exhausted",
                    f"not accepting new clients for now: {os.strerror(error.errno)}",
                    remedy="Raise the limit of open files (ulimit -n, LimitNOFILE): the service needs 512.",
                )
        elif not (self._server.should_exit and isinstance(error, ValueError)):  # else: the retry of a closed listener
            loop.default_exception_handler(context)


async def _serve(
    settings: Settings, about: ServiceSettings, reader: StatusReader, listeners: Sequence[socket.socket]
) -> None:
    loop = asyncio.get_running_loop()
    backups = Backups(settings.backup_dir)

    def late(seconds: float) -> Snapshot:
        error = DatabaseUnavailableError(
            f"No answer from the database for {seconds:.0f} s",
            remedy="Check that PostgreSQL is running and reachable from here. The service keeps trying.",
        )
        return snapshot.of_failure(error, database=reader.database, taken=time.time() - seconds)

    cache = Cache(reader.read, late, reader.longest)
    service = Service(
        cache=cache,
        access=Access(Tokens(about.tokens)),
        backups=backups,
        public_badge=about.public_badge,
        reads=lambda: reader.reads,
    )
    server = _Server(
        uvicorn.Config(
            build_app(service),
            http=ClientConnection,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            backlog=_BACKLOG,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            timeout_keep_alive=TO_ASK_AGAIN,
            timeout_graceful_shutdown=1,
        )
    )
    quiet_uvicorn()
    loop.set_exception_handler(_Complaints(server))

    def end(signum: int) -> None:
        logs.event(logs.INFO, "service.stopping", f"{signal.Signals(signum).name}: stopping")
        server.should_exit = True
        backups.terminate()
        loop.call_later(_GRACE, cache.leave)
        loop.call_later(_GRACE + _LAST_WORDS, server.drop_connections)

    # Signal handlers run between two steps of the event loop.
    signals.delegate_to(lambda signum: loop.call_soon_threadsafe(end, signum))
    _tell(about, listeners)
    await server.serve(sockets=list(listeners))
    await backups.end()


def _tell(about: ServiceSettings, listeners: Sequence[socket.socket]) -> None:
    names = [listener.getsockname() for listener in listeners]
    addresses = [f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}" for name in names]
    logs.event(
        logs.INFO,
        "service.listening",
        f"listening on {', '.join(addresses)}, {_access_in_words(about)}; the page is at /admin",
        addresses=addresses,
        tokens=len(about.tokens),
        public_badge="yes" if about.public_badge else "no",
    )
    for number, token in enumerate(about.tokens, start=1):
        if len(token) < tokens.SHORTEST:
            logs.event(
                logs.WARNING,
                "service.short_token",
                f"token {number} is shorter than {tokens.SHORTEST} characters",
                remedy="Use one that cannot be guessed: openssl rand -hex 32",
            )


def _access_in_words(about: ServiceSettings) -> str:
    if not about.tokens:
        return "without a token: open to everyone on this machine"
    return f"with {count(len(about.tokens), 'token')}"
