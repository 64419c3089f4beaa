"""The status service under load: requests per second, latencies, and statements that reach the database."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.crowd import Replica, until
from benchmarks.figures import percentile
from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, mb, seconds
from demo.postgres import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.stage import Stage
    from benchmarks.target import Target


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    clients: int
    window: float
    """Seconds for which each path is requested."""
    idle: float
    """Seconds without requests."""


FULL = Scale(runs=1, clients=50, window=10, idle=10)
QUICK = Scale(runs=1, clients=5, window=0.5, idle=0.5)

# The additional packages of `pip install 'pg-entrypoint[serve]'`.
DEPENDENCIES = (
    *("starlette", "anyio", "idna", "sniffio", "uvicorn", "h11", "click"),
    *("prometheus-client", "jinja2", "markupsafe", "itsdangerous"),
)

TOKEN = "token-of-the-benchmark"  # noqa: S105 - of a service that lives for minutes
PATHS = ("/api/admin/migrations/status", "/metrics", "/badge.svg", "/readyz", "/livez")
SIZES = (30, 300)
LIMIT = 100e6


class Load(NamedTuple):
    """What the clients of one path got, and what it cost."""

    per_second: float
    p50: float
    p99: float
    slowest: float
    others: dict[int, int]
    """Answers that were not 200, by status."""
    questions: float
    """Statements that the database server received, per second."""
    cpu: float
    """CPU time of the service, as a share of one core."""


def measure(stage: Stage, scale: Scale) -> Iterator[Section]:
    """Measure each path with few and with many migrations, and the memory afterwards."""
    stage.install(DEPENDENCIES)
    memory = Section(
        "Service: memory, and statements without requests",
        ("migrations", "at its start", "after all requests", "peak", "statements per minute without requests"),
        notes=["Memory: resident (VmRSS), and its peak (VmHWM)."],
    )
    for size in SIZES:
        folder = stage.folder(migrations.small(size))
        with stage.database(log_statement="all") as target:
            stage.migrate(target, folder)
            with _service(stage, target, folder) as (replica, port):
                start = _memory(replica, "VmRSS")
                yield _paths(stage, scale, target, replica, port, size)
                mark = stage.server.log_size()
                time.sleep(scale.idle)
                idle = _questions(stage, target, mark) / scale.idle * 60
                end, peak = _memory(replica, "VmRSS"), _memory(replica, "VmHWM")
        memory.rows.append((str(size), mb(start), mb(end), mb(peak), f"{idle:.0f}"))
        memory.values[str(size)] = {"start": start, "end": end, "peak": peak, "idle": idle}
    yield memory


def _paths(stage: Stage, scale: Scale, target: Target, replica: Replica, port: int, size: int) -> Section:
    section = Section(
        f"Service: {scale.clients} clients for {scale.window:g} s, {size} migrations",
        ("", "requests/s", "p50", "p99", "slowest", "not 200", "statements/s", "CPU", "requests per CPU second"),
        notes=[
            "The clients are one other process on this machine. Each keeps its connection and sends requests nonstop.",
            "Statements: as the server logged them. CPU: as a share of one core; on a busy machine, less is available.",
        ],
    )
    for path in PATHS:
        load = _load(stage, scale, target, replica, port, path)
        section.rows.append(
            (
                path,
                f"{load.per_second:,.0f}",
                seconds(load.p50),
                seconds(load.p99),
                seconds(load.slowest),
                str(sum(load.others.values())),
                f"{load.questions:.1f}",
                f"{load.cpu:.0%}",
                f"{load.per_second / load.cpu:,.0f}" if load.cpu else "-",
            )
        )
        section.values[path] = load._asdict()
    return section


def _load(stage: Stage, scale: Scale, target: Target, replica: Replica, port: int, path: str) -> Load:
    mark, cpu = stage.server.log_size(), replica.cpu()
    began = time.monotonic()
    times, statuses = asyncio.run(_crowd(scale, port, path))
    took = time.monotonic() - began
    if not times:
        raise BenchmarkError(f"no client got an answer from {path}")
    return Load(
        per_second=len(times) / took,
        p50=percentile(times, 50),
        p99=percentile(times, 99),
        slowest=max(times),
        others={status: count for status, count in statuses.items() if status != 200},
        questions=_questions(stage, target, mark) / took,
        cpu=(replica.cpu() - cpu) / took,
    )


async def _crowd(scale: Scale, port: int, path: str) -> tuple[list[float], Counter[int]]:
    """Let all clients send requests; return how long each answer took, and its status."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    length = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
    end = time.perf_counter() + scale.window

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        now = time.perf_counter()
        while now < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = length.search(head)
            await reader.readexactly(int(found[1]) if found else 0)
            before, now = now, time.perf_counter()
            times.append(now - before)
            statuses[int(head[9:12])] += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(scale.clients)))
    return times, statuses


@contextlib.contextmanager
def _service(stage: Stage, target: Target, folder: Path) -> Iterator[tuple[Replica, int]]:
    """Run the service; yield its process and its port."""
    port = free_port()
    more = {"STATUS_PORT": str(port), "STATUS_TOKEN": TOKEN, "LOG_LEVEL": "info", "LOG_FORMAT": "json"}
    environment = stage.environment(target, folder, **more)
    output = stage.directory / f"service-{port}.log"
    replica = Replica([stage.entrypoint, "serve"], environment, output)
    try:
        until(lambda: "service.listening" in replica.events() or not replica.running, 30, "the service")
        if not replica.running:
            raise BenchmarkError(f"the service did not start:\n{replica.text()}")
        with contextlib.closing(socket.create_connection((HOST, port), 10)):
            yield replica, port
    finally:
        replica.kill()


def _questions(stage: Stage, target: Target, mark: int) -> int:
    """Return how many statements for this database the server has logged since a mark in its log."""
    return len(re.findall(rf"@{target.database}/.*? LOG:  (?:statement|execute [^:]*): ", stage.server.log_text(mark)))


def _memory(replica: Replica, name: str) -> int:
    lines = Path(f"/proc/{replica.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
