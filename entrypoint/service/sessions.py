"""Sessions of the page: a cookie that says when somebody logged in, signed with the token that they showed.

The signing key is derived from the token and from nothing else. So replicas agree without sharing anything, a restart
ends no session, and a token that is taken out of the configuration ends those that were begun with it. There is no
list of sessions: logging out deletes the cookie, and a copy of it lives until it expires.
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

# Says what the key is for: a signature made with the same token elsewhere is none of a session's.
_PURPOSE = b"entrypoint.service.session.v1"
_CONTENT = b"admin"


def issue(token: str) -> str:
    """Return the cookie for somebody who has just shown this token."""
    return _signer(token).sign(_CONTENT).decode()


def accepted(cookie: str, tokens: Iterable[str]) -> bool:
    """Tell whether one of the tokens has signed the cookie, and not too long ago."""
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

    It makes guessing slow and visible; what makes it hopeless is a long token. Behind a proxy that hides its clients
    all are one, which then may have to wait for each other.
    """

    def __init__(self, attempts: int = 5, seconds: float = 60, clients: int = 1_000) -> None:
        """Allow so many wrong tokens in so many seconds, counted from the first; remember so many clients."""
        self._attempts = attempts
        self._seconds = seconds
        self._most = clients
        self._clients: OrderedDict[str, _Failures] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Return for how many seconds this client may not try; 0 if it may."""
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
