"""Who may access the service.

With tokens, everyone who sends one: `Authorization: Bearer …`. Without tokens, the service listens on a loopback
address only, and is open to everyone on this machine or in this pod. That must not include other sites' pages in a
browser on this machine: they can send requests to 127.0.0.1, under a name of their own that resolves to it. So without
tokens, the Host of a request must be this machine, and requests that change something must not come from other sites.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from starlette.datastructures import URL
from starlette.exceptions import HTTPException

TYPE_CHECKING = False
if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

    from entrypoint.service.tokens import Tokens

_CHALLENGE = 'Bearer realm="pg-entrypoint"'
_SAFE = ("GET", "HEAD", "OPTIONS")


class Access(NamedTuple):
    """Checks the requests."""

    tokens: Tokens

    def require(self, request: HTTPConnection) -> None:
        """Raise HTTPException with status 401 without a token, 403 with a wrong one."""
        if not self.tokens.required:
            _require_this_machine(request)
            return
        offered = bearer(request)
        if offered is None:
            raise HTTPException(
                401,
                "Token required: Authorization: Bearer TOKEN, one of those in STATUS_TOKEN or STATUS_TOKEN_FILE",
                {"WWW-Authenticate": _CHALLENGE},
            )
        if not self.tokens.accept(offered):
            raise HTTPException(403, "This token is not in STATUS_TOKEN or STATUS_TOKEN_FILE")


def bearer(request: HTTPConnection) -> str | None:
    """Return the token of a request, or None."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _require_this_machine(request: HTTPConnection) -> None:
    """Raise HTTPException with status 403 if the request seems to come from another site."""
    if not _is_this_machine(request.headers.get("Host", "")):
        raise HTTPException(403, "Without a token, the service only answers requests to 127.0.0.1, [::1] and localhost")
    origin = request.headers.get("Origin")
    elsewhere = origin is not None and not _is_this_machine(origin.partition("://")[2])
    if elsewhere and request.scope.get("method") not in _SAFE:
        raise HTTPException(403, "Without a token, requests from other sites cannot change anything here")


def _is_this_machine(host: str) -> bool:
    """Return whether a Host header, with or without a port, is a loopback name or address."""
    try:
        name = URL(f"http://{host}").hostname or ""
        return name.lower() == "localhost" or ip_address(name).is_loopback
    except ValueError:  # Another name, or not a valid one.
        return False
