"""The page over HTTP from a snapshot that a test chooses: the service's own routes and server, without a database."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import uvicorn
from starlette.applications import Starlette

from entrypoint.service import page
from entrypoint.service.access import Access
from entrypoint.service.tokens import Tokens
from kit.processes import until

if TYPE_CHECKING:
    from typing import Self

    from entrypoint.service.snapshot import Snapshot

TOKEN = "a-token-for-the-tests-of-the-page"


class Cache:
    """Stands in for the service's cache: holds what it was given."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    async def get(self) -> Snapshot:
        return self.snapshot


class _Service(NamedTuple):
    cache: Cache
    access: Access


class PageServer:
    """A server in a thread; a context manager."""

    def __init__(self, snapshot: Snapshot, *tokens: str) -> None:
        """Show `snapshot` to anybody with one of the tokens; without tokens, to everybody on this machine."""
        self.cache = Cache(snapshot)
        service = _Service(self.cache, Access(Tokens(tokens)))
        app = Starlette(routes=page.routes(service))  # type: ignore[arg-type]  # all of the service that a page needs
        config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False, proxy_headers=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self._server.started, 10, "the server listens")
        (listener,) = self._server.servers[0].sockets
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
