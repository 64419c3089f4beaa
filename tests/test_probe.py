"""MIGRATION_PROBE_PORT: what a kubelet sees until the application is exec'd, and what the application finds then."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from conftest import missing
from demo.postgres import HOST, free_port
from kit.processes import Observation, command_line, descendants, open_fds, status, until, without_internal
from scene import Gate, Scene, only_error, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.databases import Database
    from kit.processes import Run

pytestmark = pytest.mark.cold

SLOW = {"001_slow.sql": f"CREATE TABLE slow ();\n{Gate.PASS}\n"}
PATIENCE = 10


@pytest.fixture
def scene(database: Database, migrations_dir: Path, run_entrypoint: Callable[..., Run]) -> Scene:
    return Scene(database, migrations_dir, run_entrypoint)


@pytest.fixture
def port() -> int:
    """Return a port that is entirely free: no connection of an earlier server is still in TIME_WAIT."""

    def look() -> int:
        port = free_port()
        with socket.socket() as strict, contextlib.suppress(OSError):
            strict.bind(("", port))
            return port
        return 0

    return until(look, 10, "a port that is quite free")


class Answer(NamedTuple):
    """What a client received."""

    status: int
    body: dict[str, Any]


def ask(port: int, path: str, method: str = "GET", host: str = HOST) -> Answer:
    """Ask as a kubelet does. An incomplete answer is an error."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Connection": "close"})
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read() or b"{}"))


def ready_when(port: int, found: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Ask /readyz until `found` accepts its body, and return that."""

    def look() -> dict[str, Any] | None:
        try:
            answer = ask(port, "/readyz")
        except ConnectionRefusedError:
            return None  # Not there yet.
        assert answer.status == 503
        return answer.body if found(answer.body) else None

    body = until(look, 15, f"an answer on port {port}")
    assert body is not None
    return body


def in_phase(port: int, phase: str) -> dict[str, Any]:
    return ready_when(port, lambda body: body["phase"] == phase)


def connect(port: int, host: str = HOST) -> socket.socket:
    return socket.create_connection((host, port), timeout=PATIENCE)


# --- The phases -----------------------------------------------------------------------------------------


def test_while_connecting(scene: Scene, port: int) -> None:
    url = f"postgresql://nobody@{HOST}:{free_port()}/nothing"
    run = scene.start(url=url, MIGRATION_PROBE_PORT=port, DB_CONNECT_BACKOFF_MS=60_000)
    run.until("database.retry")
    assert ask(port, "/livez") == (200, {"status": "alive"})
    body = in_phase(port, "connecting")
    assert body.keys() == {"status", "phase", "seconds", "seconds_since_start"}
    assert 0 <= body["seconds"] <= body["seconds_since_start"]


@pytest.mark.parametrize("command", [(), ("migrate",)], ids=["run", "migrate"])
def test_while_a_migration_runs(scene: Scene, port: int, command: tuple[str, ...]) -> None:
    scene.write({"001_first.sql": "CREATE TABLE first ();"})
    scene.migrated()
    # One by one: for a file in one transaction, the server sends several results at once.
    slow = f"-- entrypoint: no-transaction\nSELECT 1; SELECT 2; {Gate.PASS} SELECT 4;"
    scene.write({"002_slow.sql": slow, "003_last.sql": "SELECT 1"})
    with Gate(scene.database) as gate:
        run = scene.start(*command, MIGRATION_PROBE_PORT=port)
        gate.arrival()
        body = ready_when(port, lambda body: body.get("statement") == 3)
        assert {name: body[name] for name in ("status", "phase", "file", "statements")} == {
            "status": "not ready",
            "phase": "migrating",
            "file": "002_slow.sql",
            "statements": 4,
        }
        assert (body["version"], body["latest"], body["pending"]) == (1, 3, 2)
        assert ask(port, "/livez").status == 200
    run.ok()
    assert scene.ledger()[-1] == (3, "completed")


@pytest.mark.thorough
def test_while_a_migration_command_runs(scene: Scene, port: int, tmp_path: Path) -> None:
    command = f"sh -c 'while [ ! -e {tmp_path}/go ]; do sleep 0.05; done'"
    run = scene.start("migrate", MIGRATION_PROBE_PORT=port, MIGRATION_COMMAND=command)
    assert in_phase(port, "migrating")["file"] == command
    (tmp_path / "go").touch()
    run.ok()


def test_while_another_replica_has_the_lock(scene: Scene, port: int) -> None:
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        leader = scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        waiting = free_port()
        waiter = scene.start(MIGRATION_PROBE_PORT=waiting)
        body = ready_when(waiting, lambda body: "is running 001_slow.sql" in body.get("held_by", ""))
        assert body["phase"] == "waiting for the lock"
        assert f"(process {leader.pid})" in body["held_by"]
        assert body["pending"] == 1
        assert in_phase(port, "migrating")["file"] == "001_slow.sql"
    assert {told(leader).outcome, told(waiter).outcome} == {"migrated", "waited"}


def test_while_a_statement_waits_for_somebody(scene: Scene, port: int) -> None:
    scene.database.execute("CREATE TABLE busy ()")
    scene.write({"001_alter.sql": "ALTER TABLE busy ADD a text;"})
    with scene.database.connect() as other, other.transaction():
        other.execute("SELECT * FROM busy")
        # The watcher looks after half of this time.
        run = scene.start(MIGRATION_PROBE_PORT=port, MIGRATION_DDL_LOCK_TIMEOUT_MS=3000)
        body = ready_when(port, lambda body: "blocked_by" in body)
        assert body["blocked_by"] == [other.info.backend_pid]
        assert (body["file"], body["statement"]) == ("001_alter.sql", 1)
    assert told(run).outcome == "migrated"


def test_ipv6_and_other_addresses_of_this_machine(scene: Scene, port: int) -> None:
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        hosts = ["127.0.0.2"]
        if Path("/proc/net/if_inet6").exists() and "00000000000000000000000000000001" in Path(
            "/proc/net/if_inet6"
        ).read_text(encoding="ascii"):
            hosts.append("::1")
        for host in hosts:
            assert ask(port, "/livez", host=host).status == 200


# --- Clients of every kind ------------------------------------------------------------------------------


@pytest.fixture
def probed(scene: Scene, port: int) -> Iterator[int]:
    """Return the port of a start that is in the middle of a migration, and that succeeds in the end."""
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        run = scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        yield port
        gate.open()
        assert told(run).outcome == "migrated"


def test_methods_and_paths(probed: int) -> None:
    assert ask(probed, "/livez", "HEAD") == (200, {})
    assert ask(probed, "/readyz", "HEAD") == (503, {})
    assert ask(probed, "/elsewhere").status == 404
    assert ask(probed, "/livez", "POST").status == 405


@pytest.mark.thorough
def test_a_client_that_closes_its_half_first(probed: int) -> None:
    """As `printf … | nc` does."""
    with connect(probed) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(4096):
            received += data
    assert received.endswith(b'{"status": "alive"}\n')


@pytest.mark.thorough
def test_a_client_that_sends_letter_by_letter(probed: int) -> None:
    with connect(probed) as client:
        for byte in b"GET /livez HTTP/1.1\r\n\r\n":
            client.send(bytes([byte]))
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00\x01", b"A" * 100_000, b"\0" * 5_000_000], ids=len)
def test_garbage(probed: int, garbage: bytes) -> None:
    with connect(probed) as client, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        client.sendall(garbage)
        assert client.recv(4096).startswith(b"HTTP/1.1 4")
    assert ask(probed, "/livez").status == 200


def test_clients_that_say_nothing_keep_nobody_out(probed: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(probed)).send(b"GET /")
        for _ in range(20):
            assert ask(probed, "/livez").status == 200


@pytest.mark.thorough
def test_many_at_once(probed: int) -> None:
    """More than we keep: clients that have their answer make room, and can still read it."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(60):
            clients.append(stack.enter_context(connect(probed)))
            clients[-1].send(b"GET /livez HTTP/1.1\r\n\r\n")
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_connections_are_bounded(scene: Scene, port: int) -> None:
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        run = scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        assert ask(port, "/livez").status == 200
        before = len(open_fds(run.pid))
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(connect(port))
            assert ask(port, "/livez").status == 200
            assert len(open_fds(run.pid)) <= before + 16
        gate.open()
        assert told(run).outcome == "migrated"


# --- When the application is exec'd ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def bind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled program `bind`, which listens on a port without SO_REUSEADDR."""
    program = tmp_path_factory.mktemp("bind") / "bind"
    source = Path(__file__).parent / "kit" / "programs" / "bind.c"
    try:
        subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True, timeout=60)
    except FileNotFoundError:
        missing("no C compiler `cc` for programs/bind.c")
    return program


def hammer(port: int, stopped: threading.Event) -> None:
    """Probe without a pause, as nobody does, so that the very last moment is hit too."""
    while not stopped.is_set():
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(port, "/readyz")


@contextlib.contextmanager
def hammering(port: int, threads: int = 3) -> Iterator[None]:
    stopped = threading.Event()
    workers = [threading.Thread(target=hammer, args=(port, stopped)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stopped.set()
        for worker in workers:
            worker.join(30)


def test_the_port_is_free_for_an_application_that_is_not_prepared(scene: Scene, port: int, bind: Path) -> None:
    """After answers, in the middle of requests, with clients that never send or never close anything."""
    scene.write(SLOW)
    with Gate(scene.database) as gate, contextlib.ExitStack() as stack:
        run = scene.start("run", "--", str(bind), str(port), MIGRATION_PROBE_PORT=port)
        gate.arrival()
        for _ in range(30):
            assert ask(port, "/livez").status == 200
        silent, slow, greedy, half = (stack.enter_context(connect(port)) for _ in range(4))
        slow.send(b"GET /liv")
        greedy.send(b"GET /livez HTTP/1.1\r\n\r\n")
        assert greedy.recv(4096)
        half.send(b"GET /livez HTTP/1.1\r\n\r\n")
        half.shutdown(socket.SHUT_WR)
        with hammering(port):
            gate.open()
            run.wait()
        assert run.stdout == "free\n", f"{run.report()}\n{connections_of(port)}"
        del silent


def connections_of(port: int) -> list[str]:
    """Return the kernel's connections on a port, for the message of a failed assertion."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [line for line in lines if f":{port:04X} " in line]


@pytest.mark.thorough
def test_the_port_is_free_when_there_was_nothing_to_do(scene: Scene, port: int, bind: Path) -> None:
    """The probe is open for only a few milliseconds; the hammering begins before the start."""
    scene.write({"001_a.sql": "SELECT 1"})
    scene.migrated()
    with hammering(port, 2):
        for _ in range(3):
            run = scene.start("run", "--", str(bind), str(port), MIGRATION_PROBE_PORT=port).ok()
            assert run.stdout == "free\n"


def test_the_port_is_free_after_a_sudden_end(scene: Scene, port: int) -> None:
    """A killed container's port is free for its successor in the same pod, even if clients were connected."""
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        run = scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        with connect(port) as client:
            client.send(b"GET /livez HTTP/1.1\r\n\r\n")
            assert client.recv(4096)
            run.kill(signal.SIGKILL)
            run.wait()
            with socket.socket() as successor:
                successor.bind((HOST, port))


def test_nothing_is_left_to_the_application(scene: Scene, port: int, look: Path) -> None:
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        run = scene.start("run", "--", str(look), MIGRATION_PROBE_PORT=port)
        gate.arrival()
        with connect(port) as client:
            client.send(b"GET /readyz HTTP/1.1\r\n\r\n")
            assert client.recv(4096)
            gate.open()
            facts = Observation.of(run).facts
    assert [fd["fd"] for fd in facts["fds"]] == [0, 1, 2]
    assert int(facts["SigBlk"], 16) == 0
    # SIGHUP may be ignored if these tests run under nohup. Only this Python ignores SIGPIPE and SIGXFSZ. In the
    # background it may also ignore SIGINT and SIGQUIT, but what the tests start does not.
    ours = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT))
    assert int(without_internal(facts["SigIgn"]), 16) == int(status(os.getpid())["SigIgn"], 16) & ~ours


def test_a_client_in_the_middle_of_everything_is_told(scene: Scene, port: int) -> None:
    """It gets a reset, and does not wait for an answer that never comes."""
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        run = scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        with connect(port) as client:
            client.send(b"GET /readyz")
            gate.open()
            run.ok()
            with pytest.raises(ConnectionResetError):
                client.recv(4096)
        with pytest.raises(ConnectionRefusedError):
            connect(port)


# --- Where it cannot listen, and where it does not -------------------------------------------------------


def test_a_port_that_is_taken(scene: Scene) -> None:
    scene.write({"001_a.sql": "SELECT 1"})
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]
        run = scene.start(MIGRATION_PROBE_PORT=taken)
        assert told(run).outcome == "migrated"
    (warning,) = run.logs("probe.unavailable")
    assert warning["level"] == "warning"
    assert (warning["port"], "MIGRATION_PROBE_PORT" in warning["remedy"]) == (taken, True)
    assert "Address already in use" in warning["message"]


def test_no_port_where_nobody_asked_for_one_or_nothing_is_done(scene: Scene, port: int) -> None:
    url = f"postgresql://nobody@{HOST}:{free_port()}/nothing"
    run = scene.start("run", "--", "true", AUTO_MIGRATE="false", MIGRATION_PROBE_PORT=port, LOG_LEVEL="debug").ok()
    assert "probe.listening" not in run.events()
    run = scene.start("migrate", url=url, LOG_LEVEL="debug", DB_CONNECT_ATTEMPTS=1)
    assert run.wait() == 69
    assert "probe.listening" not in run.events()
    run = scene.start("migrate", url=url, LOG_LEVEL="debug", DB_CONNECT_ATTEMPTS=1, MIGRATION_PROBE_PORT=port)
    assert run.wait() == 69
    assert "probe.listening" in run.events()


def test_a_port_that_cannot_be_one(scene: Scene) -> None:
    run = scene.start("migrate", MIGRATION_PROBE_PORT=70000)
    assert run.wait() == 78
    assert "MIGRATION_PROBE_PORT is '70000'" in only_error(run)["message"]


# --- Signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_as_without_a_probe(scene: Scene, port: int, number: signal.Signals) -> None:
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        run = scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        with connect(port), hammering(port, 1):
            began = time.monotonic()
            run.kill(number)
            assert run.wait() == 128 + number, run.report()
            assert time.monotonic() - began < 2
    assert run.events()[-1] == "interrupted"
    with socket.socket() as successor:
        successor.bind((HOST, port))


def test_signals_are_not_for_the_probes_thread(scene: Scene, port: int) -> None:
    scene.write(SLOW)
    with Gate(scene.database) as gate:
        run = scene.start(MIGRATION_PROBE_PORT=port)
        gate.arrival()
        threads = [thread.name for thread in Path(f"/proc/{run.pid}/task").iterdir()]
        masks = {thread: int(status(int(thread))["SigBlk"], 16) for thread in threads}
        handled = 1 << (signal.SIGTERM - 1) | 1 << (signal.SIGINT - 1)
        assert [mask & handled for mask in masks.values()].count(handled) == 1
        assert masks[str(run.pid)] == 0


@pytest.mark.thorough
def test_as_pid_1(scene: Scene, port: int, run_program: Callable[..., Run]) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        missing("no permission to make a pid namespace (unshare --pid)")
    scene.write(SLOW)
    env = {"DATABASE_URL": scene.database.url, "MIGRATION_PROBE_PORT": str(port)}
    with Gate(scene.database) as gate:
        run = run_program([*unshare, sys.executable, "-m", "entrypoint", "run", "--", "true"], env=env)
        gate.arrival()
        (pid,) = descendants(run.pid)
        assert command_line(pid)[1:] == ["-m", "entrypoint", "run", "--", "true"]
        assert ask(port, "/livez").status == 200
        os.kill(pid, signal.SIGTERM)
        assert run.wait() == 128 + signal.SIGTERM, run.report()
