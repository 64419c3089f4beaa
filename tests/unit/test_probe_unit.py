"""Which bytes the probe answers with what, and what it knows about the phase."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from entrypoint import phase
from entrypoint.probe import Probe, _Connection, respond

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _fresh_phase() -> Iterator[None]:
    before = phase._now, phase._schema, phase._blocked
    phase._schema = {}  # other tests in this process may have set it
    yield
    phase._now, phase._schema, phase._blocked = before


def get(path: str, method: str = "GET", version: str = "HTTP/1.1", rest: str = "Host: x\r\n") -> bytes:
    return f"{method} {path} {version}\r\n{rest}\r\n".encode()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/livez"), 200),
        (get("/livez?verbose=1"), 200),
        (get("/livez", version="HTTP/1.0", rest=""), 200),
        (get("http://pod:8081/livez"), 200),
        (b"\r\nGET /livez HTTP/1.1\n\n", 200),
        (get("/readyz"), 503),
        (get("/readyz", "HEAD"), 503),
        (get("/"), 404),
        (get("/livez/"), 404),
        (get("/LIVEZ"), 404),
        (get("/nothing", "POST"), 404),
        (get("/livez", "POST", rest="Content-Length: 5\r\n"), 405),
        (get("/readyz", "DELETE"), 405),
        (get("/livez", "get"), 405),
        (get("livez"), 400),
        (get("/livez", version="HTTP/2.0"), 400),
        (get("/livez", version="HTTP/1.1 "), 400),
        (b"GET /livez\r\n", 400),
        (b"nonsense\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\0", 400),
        (b"A" * 8193, 431),
        (get("/livez", rest="X: " + "y" * 9000 + "\r\n"), 431),
        (b"\r\n" * 5000, 431),
    ],
)
def test_the_status_of_an_answer(request_: bytes, status: int) -> None:
    answer = respond(request_)
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    if request_.startswith(b"HEAD"):
        assert not body
    else:
        assert b"\r\nContent-Length: %d\r\n" % len(body) in head
        assert json.loads(body)


def test_head_has_the_headers_of_get() -> None:
    def head(method: str) -> list[bytes]:
        answer = respond(get("/livez", method)) or b""
        lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
        return [line for line in lines if not line.startswith(b"Date:")]

    assert head("HEAD") == head("GET")


def test_the_methods_that_are_allowed() -> None:
    assert b"\r\nAllow: GET, HEAD\r\n" in (respond(get("/livez", "PUT")) or b"")


@pytest.mark.parametrize("whole", [get("/livez"), get("/readyz", "HEAD")])
def test_a_request_that_is_not_complete_has_no_answer(whole: bytes) -> None:
    for length in range(len(whole)):
        assert respond(whole[:length]) is None, whole[:length]


def ready() -> dict[str, object]:
    answer = json.loads((respond(get("/readyz")) or b"").partition(b"\r\n\r\n")[2])
    assert isinstance(answer, dict)
    return answer


def test_what_is_not_known_is_left_out() -> None:
    phase.enter("connecting")
    assert set(ready()) == {"status", "phase", "seconds", "seconds_since_start"}


def test_a_phase_that_goes_on_keeps_its_beginning() -> None:
    times = {}
    for name, statement in (("first", 1), ("again", 1), ("next", 2)):
        phase.enter(phase.MIGRATING, file="1.sql", statement=statement, statements=2)
        times[name] = phase._now.began
    assert times["first"] == times["again"] < times["next"]


def test_the_facts_of_now_win() -> None:
    phase.know(version=3, latest=9, pending=4)
    phase.enter(phase.WAITING, held_by="web-1", pending=2)
    answer = ready()
    assert (answer["version"], answer["latest"], answer["pending"], answer["held_by"]) == (3, 9, 2, "web-1")
    phase.enter(phase.MIGRATING, file="8.sql")
    assert "held_by" not in ready()
    assert ready()["pending"] == 4


def test_who_blocks_an_earlier_statement_blocks_no_more() -> None:
    phase.enter(phase.MIGRATING, file="1.sql", statement=1, statements=2)
    phase.blocked("1.sql", 1, [7, 8])
    assert ready()["blocked_by"] == [7, 8]
    phase.enter(phase.MIGRATING, file="1.sql", statement=2, statements=2)
    assert "blocked_by" not in ready()


def test_who_has_to_make_room() -> None:
    """Never a connection that has just come: first those already answered, otherwise the oldest."""
    probe = Probe(1)
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            assert probe._wait_for_room() == 0
            probe._connections.append(_Connection(stack.enter_context(socket.socket())))
        first, second, *_, last = probe._connections
        for connection in probe._connections:
            connection.began = time.monotonic() + 1000
        assert probe._wait_for_room() > 900
        first.began -= 2000
        assert probe._wait_for_room() == 0
        assert probe._first_to_drop() is first
        last.answered = True
        assert probe._first_to_drop() is last
        second.answered = second.ended = True
        assert probe._first_to_drop() is second
