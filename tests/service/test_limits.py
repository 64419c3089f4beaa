"""Clients that misbehave: each is limited in size and time, and nobody else suffers (docs/service.md)."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.postgres import HOST
from entrypoint.service.app import MOST_BODY
from entrypoint.service.connections import LONGEST_HEAD, MOST_CONNECTIONS, TO_ASK, TO_ASK_AGAIN, TO_LISTEN
from kit.processes import open_fds, peak_memory, status, until
from kit.proxy import Proxy
from kit.web import BACKUP, STATUS, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database
    from kit.web import Serving

    Serve = Callable[..., Serving]

pytestmark = pytest.mark.cold

# What a busy machine adds to a time.
BUSY = 5


@pytest.fixture
def serving(database: Database, migrations_dir: Path, serve: Serve) -> Serving:
    (migrations_dir / "001_a.sql").write_text("CREATE TABLE a ();")
    return serve(database.url)


def rest_of(client: socket.socket) -> bytes:
    """Read until the other side closes, even with a reset."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            received += piece
    return received


def is_well(serving: Serving) -> None:
    answer = serving.ask()
    assert answer.status == 200
    assert answer.seconds < BUSY


# --- Size -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Filler: ",
        b"GET /",
        b"POST /api/admin/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ",
    ],
    ids=["header", "path", "token"],
)
def test_a_head_that_does_not_end(serving: Serving, start: bytes) -> None:
    """It is refused as soon as it is too long, and not stored."""
    with serving.connect() as client:
        client.sendall(start + b"x" * (LONGEST_HEAD - len(start)))
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.sendall(b"x" * 65536)
        assert rest_of(client).startswith((b"HTTP/1.1 400 ", b"")), "a reset may overtake the answer"
    is_well(serving)
    assert peak_memory(serving.run.pid) < 150e6


@pytest.mark.thorough
def test_a_head_that_is_just_too_long_gets_an_answer(serving: Serving) -> None:
    with serving.connect() as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"x" * LONGEST_HEAD)
        assert rest_of(client).startswith(b"HTTP/1.1 400 ")
    assert serving.ask("/livez", headers={"X-Filler": "x" * (LONGEST_HEAD - 500)}).status == 200


@pytest.mark.thorough
def test_a_head_that_is_too_long_and_comes_at_once(serving: Serving) -> None:
    """h11 limits only an incomplete head; this one is complete."""
    long = b"x" * 100_000
    for request in (
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Filler: " + long + b"\r\n\r\n",
        b"GET /livez?" + long + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nX: " + long + b"\r\n\r\n",
    ):
        os.kill(serving.run.pid, signal.SIGSTOP)  # so that it is all there when it is read
        try:
            client = serving.connect()
            client.sendall(request)
        finally:
            os.kill(serving.run.pid, signal.SIGCONT)
        with client:
            received = rest_of(client)
        assert received.count(b"HTTP/1.1 200 ") == request.count(b"Host") - 1
        assert received.count(b"HTTP/1.1 431 ") == 1
        assert b'"success": false' in received


def test_a_body_that_is_announced_too_large_is_not_waited_for(serving: Serving) -> None:
    """And nothing is done: the request is refused before anybody looks at it."""
    with serving.connect() as client:
        client.sendall(
            f"POST {BACKUP} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Length: {MOST_BODY + 1}\r\n\r\n".encode()
        )
        received = rest_of(client)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"success": false' in received
    assert serving.ask(BACKUP).json["data"]["status"] == "none"


@pytest.mark.thorough
def test_a_body_without_an_end_is_cut_off(serving: Serving) -> None:
    """Endless chunks: nobody reads them, and the request's time runs out."""
    with serving.connect() as client:
        client.sendall(b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        began = time.monotonic()
        client.settimeout(1)
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began < TO_ASK + BUSY:
                with contextlib.suppress(TimeoutError):
                    client.sendall(chunk)
        assert time.monotonic() - began < TO_ASK + BUSY, "cut off in time"
    is_well(serving)
    assert peak_memory(serving.run.pid) < 150e6


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET  HTTP/1.1\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n folded: x\r\n\r\n",
    ],
    ids=["tls", "no path", "zeros", "two hosts", "two lengths", "folded"],
)
def test_what_is_not_http(serving: Serving, nonsense: bytes) -> None:
    with serving.connect() as client:
        client.sendall(nonsense)
        client.shutdown(socket.SHUT_WR)
        received = rest_of(client)
    assert received.startswith(b"HTTP/1.1 400 ") or received == b""
    is_well(serving)
    assert not [record for record in serving.run.logs() if record["level"] == "error"]


# --- Time -----------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_client_that_asks_slowly_is_cut_off(serving: Serving) -> None:
    """Slowloris: a byte now and then, in a connection's first request and in a later one."""
    first, later = serving.connect(), serving.connect()
    with first, later:
        later.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert later.recv(65536).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        ends: dict[socket.socket, float] = {}
        while len(ends) < 2:
            assert time.monotonic() - began < TO_ASK + BUSY
            for client in {first, later} - ends.keys():
                try:
                    client.sendall(b"G")
                except (BrokenPipeError, ConnectionResetError):
                    ends[client] = time.monotonic() - began
            is_well(serving)
            time.sleep(0.3)
    assert all(seconds > TO_ASK - 1 for seconds in ends.values()), ends


@pytest.mark.thorough
def test_a_client_that_says_nothing_is_cut_off(serving: Serving) -> None:
    """From the start, or after an answer."""
    for said, bound in ((b"", TO_ASK), (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", TO_ASK_AGAIN)):
        with serving.connect(timeout=bound + BUSY) as client:
            client.sendall(said)
            began = time.monotonic()
            rest_of(client)
            assert time.monotonic() - began < bound + BUSY


@pytest.mark.thorough
def test_a_client_that_does_not_listen_is_cut_off(serving: Serving, migrations_dir: Path) -> None:
    """It asks again and again and reads nothing, until its answers fill all buffers."""
    for number in range(2, 1500):
        (migrations_dir / f"{number:04d}_{'long_name_' * 15}.sql").write_text("")
    serving.data_when(lambda data: data["pendingMigrations"] > 1000)
    assert len(serving.ask().body) > 300_000
    until(lambda: not unread(serving.port), what="the end of the connections so far")
    before = socket_count(serving)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect((HOST, serving.port))
        request = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        client.sendall(request * 40)
        until(lambda: socket_count(serving) > before, what="its connection")
        until(lambda: socket_count(serving) == before, 2 * TO_LISTEN + BUSY, "the end of its connection")
    is_well(serving)


def socket_count(serving: Serving) -> int:
    return sum(target.startswith("socket:") for target in open_fds(serving.run.pid).values())


def unread(port: int) -> list[int]:
    """Return how much the service has not read yet, for each of its connections (proc(5), /proc/net/tcp: rx_queue).

    Counts the connections that are open on its side: established, or closed only by the client.
    """
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if int(local.partition(":")[2], 16) == port and state in {"01", "08"}:
            found.append(int(queues.partition(":")[2], 16))
    return found


# --- Number ---------------------------------------------------------------------------------------------


@pytest.fixture
def idlers(serving: Serving) -> Iterator[list[socket.socket]]:
    """More clients than there is room for, each with half a request."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(MOST_CONNECTIONS + 50):
            client = stack.enter_context(serving.connect())
            client.sendall(b"GET /livez HTTP/1.1\r\nHost:")
            found.append(client)
        yield found


def test_a_crowd_of_slow_clients_keeps_nobody_out(serving: Serving, idlers: list[socket.socket]) -> None:
    """The oldest of them make room."""
    until(lambda: socket_count(serving) <= MOST_CONNECTIONS + 10, 2, lambda: f"{socket_count(serving)} sockets")
    for _ in range(20):
        is_well(serving)
    assert serving.ask("/readyz").status == 200
    with contextlib.suppress(ConnectionResetError):
        assert idlers[0].recv(1) == b"", "the first one has gone"
    idlers[-1].sendall(b" x\r\n\r\n")
    assert idlers[-1].recv(65536).startswith(b"HTTP/1.1 200 "), "the last one has not"


@pytest.mark.thorough
def test_who_is_being_answered_is_not_dropped_for_a_crowd(
    database: Database, migrations_dir: Path, proxy: Proxy, serve: Serve
) -> None:
    """One request waits for the database, while hundreds of clients connect and ask nothing."""
    (migrations_dir / "001_a.sql").write_text("CREATE TABLE a ();")
    serving = serve(database.url_at(proxy.port))
    asked = proxy.when_client_sends(b"schema_migrations", Proxy.deafen)
    waiting = http.client.HTTPConnection(HOST, serving.port, timeout=30)
    with contextlib.closing(waiting), contextlib.ExitStack() as stack:
        waiting.request("GET", STATUS, headers={"Authorization": f"Bearer {TOKEN}"})
        assert asked.wait(10)
        for _ in range(MOST_CONNECTIONS + 20):
            stack.enter_context(serving.connect())
        proxy.hear()
        # It is a 500 if the crowd took longer to arrive than the service waits for the database: still an answer.
        assert waiting.getresponse().status in {200, 500}


@pytest.fixture
def crowd(
    database: Database, migrations_dir: Path, proxy: Proxy, serve: Serve
) -> Iterator[tuple[Serving, list[socket.socket]]]:
    """As many clients as allowed, each waiting for a database that does not answer."""
    (migrations_dir / "001_a.sql").write_text("CREATE TABLE a ();")
    serving = serve(database.url_at(proxy.port), DB_CONNECT_TIMEOUT_MS="20000")
    request = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    proxy.deafen()
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(serving.connect(timeout=30)) for _ in range(MOST_CONNECTIONS)]
        for client in waiting:
            client.sendall(request)
        until(lambda: unread(serving.port) == [0] * MOST_CONNECTIONS, 10, lambda: f"{unread(serving.port)}")
        yield serving, waiting


@pytest.mark.thorough
def test_if_all_are_being_answered_it_is_the_new_one_that_has_to_go(
    crowd: tuple[Serving, list[socket.socket]], proxy: Proxy
) -> None:
    serving, waiting = crowd
    with serving.connect() as late:
        late.sendall(b"GET /livez")
        assert rest_of(late) == b""
    proxy.hear()
    answers = {client.recv(17) for client in waiting}
    assert answers == {b"HTTP/1.1 200 OK\r\n"}


@pytest.mark.thorough
def test_many_at_once_do_not_get_more_room(serving: Serving) -> None:
    """Clients that came while the service was stopped are accepted in one go, each in another one's place."""
    clients: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            os.kill(serving.run.pid, signal.SIGSTOP)
            try:
                clients += [stack.enter_context(serving.connect()) for _ in range(100)]
            finally:
                os.kill(serving.run.pid, signal.SIGCONT)
            is_well(serving)  # It was last in the queue: all others have been accepted.
        until(lambda: socket_count(serving) <= MOST_CONNECTIONS + 10, 2, lambda: f"{socket_count(serving)} sockets")


@pytest.mark.thorough
def test_the_end_does_not_wait_for_a_crowd_that_waits_for_the_database(
    crowd: tuple[Serving, list[socket.socket]],
) -> None:
    """Each gets an answer in time."""
    serving, waiting = crowd
    began = time.monotonic()
    serving.run.terminate()
    assert serving.run.wait(10) == 0
    assert time.monotonic() - began < 2
    answers = {client.recv(32) for client in waiting}
    assert answers == {b"HTTP/1.1 503 Service Unavailable"}
    assert not [record for record in serving.run.logs() if record["level"] == "error"]


def test_descriptors_that_run_out_are_said_once_and_do_not_hold_up_the_end(serving: Serving) -> None:
    resource.prlimit(serving.run.pid, resource.RLIMIT_NOFILE, (40, 40))
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(serving.connect())
        record = serving.run.until("service.exhausted")
        assert record["message"] == "not accepting new clients for now: Too many open files"
        time.sleep(2.5)  # for two more tries
        serving.run.terminate()
        assert serving.run.wait(5) == 0
    assert [record["event"] for record in serving.run.logs()] == [
        "service.listening",
        "service.exhausted",
        "service.stopping",
    ]


@pytest.mark.thorough
def test_descriptors_that_run_out_are_got_over(serving: Serving) -> None:
    """Clients wait in the kernel's queue, and are served when others have gone."""
    resource.prlimit(serving.run.pid, resource.RLIMIT_NOFILE, (40, 40))
    clients = [serving.connect() for _ in range(60)]
    for client in clients:
        client.close()
    until(lambda: serving.ask("/livez").status == 200, 15, "an answer")
    serving.until_answer(200)
    assert int(status(serving.run.pid)["Threads"]) < 20
