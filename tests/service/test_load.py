"""What many clients cost the database: one query a second."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST
from kit.migrations import non_idempotent, write_migrations
from kit.web import STATUS, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServerFactory
    from kit.databases import Database
    from kit.web import Serving

    Serve = Callable[..., Serving]

REQUEST = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
CLIENTS = 50
REQUESTS = 40


async def client(port: int) -> int:
    """Ask again and again on one connection; return how often the answer was 200."""
    reader, writer = await asyncio.open_connection(HOST, port)
    good = 0
    for _ in range(REQUESTS):
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        assert found, head
        await reader.readexactly(int(found[1]))
        good += head.startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()
    return good


async def crowd(port: int) -> int:
    return sum(await asyncio.gather(*(client(port) for _ in range(CLIENTS))))


@pytest.mark.thorough
def test_two_thousand_requests_are_about_one_question_a_second(
    fresh_server: ServerFactory, migrations_dir: Path, serve: Serve
) -> None:
    """The server's own log counts what it was sent, and by whom."""
    write_migrations(migrations_dir, non_idempotent(10))
    server = fresh_server(log_statement="all", settings={"log_line_prefix": "%a "})
    server.create_database("shop")
    serving = serve(server.url("shop"))
    serving.ask()
    mark = server.log_size()
    began = time.monotonic()
    assert asyncio.run(crowd(serving.port)) == CLIENTS * REQUESTS
    seconds = time.monotonic() - began
    log = server.log_text(mark)
    questions = len(re.findall(r"^entrypoint:[0-9a-f]{16} LOG:  statement: ", log, re.MULTILINE))
    assert questions <= seconds + 1, f"{questions} in {seconds:.1f} s"
    assert questions >= int(seconds) // 3, "it goes on asking"
    assert "connection received" not in log


async def one_after_the_other(port: int, times: int) -> list[float]:
    """Ask on one connection that is kept open; return how long each answer took."""
    reader, writer = await asyncio.open_connection(HOST, port)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        assert found, head
        await reader.readexactly(int(found[1]))
        taken.append(time.perf_counter() - began)
    writer.close()
    await writer.wait_closed()
    return taken


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(
    database: Database, migrations_dir: Path, serve: Serve
) -> None:
    """Head and body are sent separately; without TCP_NODELAY, the body would arrive 40 ms later."""
    write_migrations(migrations_dir, non_idempotent(1))
    taken = sorted(asyncio.run(one_after_the_other(serve(database.url).port, 60)))
    assert taken[len(taken) // 4] < 0.03, taken
