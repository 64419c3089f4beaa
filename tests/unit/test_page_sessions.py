"""The page's cookie, and how often a client may be wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from itsdangerous import TimestampSigner

from entrypoint.service import sessions
from entrypoint.service.sessions import LIFETIME, Throttle, accepted, issue

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "correct-horse-battery-staple"


def signed(token: str, *, age: float = 0, content: bytes = b"admin") -> str:
    """Return a cookie as anybody with the token could make it, following docs/admin-page.md."""
    key = hmac.digest(token.encode(), b"entrypoint.service.session.v1", hashlib.sha256)
    stamp = int(time.time() - age)
    when = base64.urlsafe_b64encode(stamp.to_bytes((stamp.bit_length() + 7) // 8)).rstrip(b"=")
    value = content + b"." + when
    mark = base64.urlsafe_b64encode(hmac.digest(key, value, hashlib.sha256)).rstrip(b"=")
    return (value + b"." + mark).decode()


CASES: dict[str, tuple[Callable[[], str], bool]] = {
    "just issued": (lambda: issue(TOKEN), True),
    "worked out again": (lambda: signed(TOKEN), True),
    "at its last minute": (lambda: signed(TOKEN, age=LIFETIME - 60), True),
    "expired": (lambda: signed(TOKEN, age=LIFETIME + 1), False),
    "from the future": (lambda: signed(TOKEN, age=-3600), False),
    "another token's": (lambda: issue("another-token"), False),
    "no token's": (lambda: signed(""), False),
    "about something else": (lambda: signed(TOKEN, content=b"root"), False),
    "another purpose's": (lambda: TimestampSigner(TOKEN, salt=b"x").sign(b"admin").decode(), False),
    "its last letter": (lambda: issue(TOKEN)[:-2] + "AA", False),
    "a later time": (lambda: _later(issue(TOKEN)), False),
    "without a signature": (lambda: "admin", False),
    "nothing": (lambda: "", False),
    "dots": (lambda: "...", False),
    "not ASCII": (lambda: "admin.ä.ö", False),
    "half a pair": (lambda: "admin.\udc80.x", False),
    "long": (lambda: "a." * 8_000, False),
}


def _later(cookie: str) -> str:
    content, _, signature = cookie.split(".")
    stamp = base64.urlsafe_b64encode(int(time.time() + 60).to_bytes(4)).rstrip(b"=").decode()
    return f"{content}.{stamp}.{signature}"


@pytest.mark.parametrize("case", CASES)
def test_a_cookie(case: str) -> None:
    cookie, expected = CASES[case]
    assert accepted(cookie(), [TOKEN]) is expected


def test_a_session_lives_as_long_as_its_token() -> None:
    cookie = issue(TOKEN)
    assert accepted(cookie, ["a-newer-token", TOKEN])
    assert not accepted(cookie, ["a-newer-token"])
    assert not accepted(cookie, [])


def test_the_key_is_nowhere_in_the_cookie() -> None:
    assert TOKEN not in issue(TOKEN)
    assert sessions._signer(TOKEN).derive_key() != sessions._signer("other").derive_key()


def test_a_client_may_be_wrong_now_and_then() -> None:
    throttle = Throttle(attempts=3, seconds=60)
    waits = []
    for second in range(0, 70, 10):
        waits.append(throttle.wait("a", second))
        if not waits[-1]:
            throttle.failed("a", second)
    assert waits == [0, 0, 0, 30, 20, 10, 0]
    # From the first failure on, not the last: a client that waits is let in.
    assert throttle.wait("a", 61) == 0


def test_one_client_does_not_keep_another_out() -> None:
    throttle = Throttle(attempts=1, seconds=60)
    throttle.failed("a", 0)
    assert (throttle.wait("a", 1), throttle.wait("b", 1)) == (59, 0)


def test_what_is_remembered_has_a_bound() -> None:
    throttle = Throttle(attempts=1, seconds=60, clients=10)
    for number in range(1_000):
        throttle.failed(str(number), 0)
    assert [number for number in range(1_000) if throttle.wait(str(number), 1)] == list(range(990, 1_000))


def test_waiting_gets_shorter() -> None:
    throttle = Throttle(attempts=1, seconds=60)
    throttle.failed("a", 0)
    waits = [throttle.wait("a", second) for second in range(61)]
    assert all(later < earlier for earlier, later in pairwise(waits))
    assert waits[-1] == 0
