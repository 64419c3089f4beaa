"""Sessions of the page: a cookie with the time of the login, signed with the token that was used.

The signing key is derived from the token and nothing else. So replicas agree without shared state, sessions survive a
restart, and removing a token from the configuration ends its sessions. There is no list of sessions: logging out
deletes the cookie, and a copy of it is valid until it expires.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

from itsdangerous import BadSignature, TimestampSigner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

COOKIE = "entrypoint_session"
# A working day.
LIFETIME = 12 * 3600

# States the purpose of the key, so that a signature made elsewhere with the same token is not a session.
_PURPOSE = b"entrypoint.service.session.v1"
_CONTENT = b"admin"


def issue(token: str) -> str:
    """Return the cookie for a login with this token."""
    return _signer(token).sign(_CONTENT).decode()


def accepted(cookie: str, tokens: Iterable[str]) -> bool:
    """Return whether the cookie was signed with one of the tokens, and has not expired."""
    return any(_signed(cookie, token) for token in tokens)


def _signed(cookie: str, token: str) -> bool:
    try:
        return _signer(token).unsign(cookie.encode(errors="replace"), max_age=LIFETIME) == _CONTENT
    except BadSignature:
        return False


def _signer(token: str) -> TimestampSigner:
    return TimestampSigner(token.encode(), salt=_PURPOSE, key_derivation="hmac", digest_method=hashlib.sha256)


class _Failures(NamedTuple):
    number: int
    until: float


class Throttle:
    """Counts wrong tokens by client, in a fixed amount of memory.

    This makes guessing slow and visible; a long token makes it hopeless. Behind a proxy that hides its clients, all of
    them count as one, and may have to wait for each other.
    """

    def __init__(self, attempts: int = 5, seconds: float = 60, clients: int = 1_000) -> None:
        """Set how many wrong tokens are allowed, in how many seconds after the first, and how many clients to track."""
        self._attempts = attempts
        self._seconds = seconds
        self._most = clients
        self._clients: OrderedDict[str, _Failures] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Return how many seconds this client has to wait; 0 if it may try now."""
        found = self._clients.get(client)
        if found is None or found.until <= now or found.number < self._attempts:
            return 0.0
        return found.until - now

    def failed(self, client: str, now: float) -> None:
        """Count a wrong token."""
        found = self._clients.pop(client, None)
        if found is None or found.until <= now:
            found = _Failures(0, now + self._seconds)
        self._clients[client] = _Failures(found.number + 1, found.until)
        while len(self._clients) > self._most:
            self._clients.popitem(last=False)
