"""`entrypoint serve` as a process, and a client for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from demo.postgres import HOST
from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kit.processes import Run

TOKEN = "correct-horse-battery-staple"
STATUS = "/api/admin/migrations/status"
BACKUP = "/api/admin/backup"
PATIENCE = 15


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    """With their names in lower case."""
    body: bytes
    seconds: float

    @property
    def json(self) -> dict[str, Any]:
        """The body, as a JSON object."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True)
class Serving:
    """A running service."""

    run: Run
    port: int
    host: str = HOST

    def ask(
        self,
        path: str = STATUS,
        *,
        token: str | None = TOKEN,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = PATIENCE,
    ) -> Answer:
        """Send a request, with the token unless that is None, and return the answer."""
        given = {"Connection": "close", **(headers or {})}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        began = time.monotonic()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=given)
            response = connection.getresponse()
            content = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, content, time.monotonic() - began)

    def data(self) -> dict[str, Any]:
        """Return the documented status."""
        answer = self.ask()
        assert answer.status == 200, answer
        found = answer.json
        assert found["success"] is True
        data = found["data"]
        assert isinstance(data, dict)
        return data

    def data_when(self, wanted: Callable[[dict[str, Any]], object], timeout: float = 15) -> dict[str, Any]:
        """Return the documented status as soon as it is as `wanted`. It is cached for a second, so it may be old."""
        seen: list[Answer] = []

        def look() -> dict[str, Any] | None:
            seen[:] = [self.ask()]
            if seen[0].status != 200:
                return None
            data: dict[str, Any] = seen[0].json["data"]
            return data if wanted(data) else None

        found = until(look, timeout, lambda: f"another status than {seen}")
        assert found is not None
        return found

    def until_answer(self, status: int, path: str = STATUS, timeout: float = 20) -> Answer:
        """Repeat a request until the answer has this status, and return it."""
        seen: list[Answer] = []

        def look() -> Answer | None:
            seen[:] = [self.ask(path)]
            return seen[0] if seen[0].status == status else None

        found = until(look, timeout, lambda: f"{status}, but {seen}")
        assert found is not None
        return found

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        """Return a bare connection, for misbehaving clients."""
        return socket.create_connection((self.host, self.port), timeout)
