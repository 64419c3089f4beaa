"""How long readers and writers wait while a column is filled, in batches and by one UPDATE."""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, seconds
from demo.standby import Standby

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.stage import Stage
    from benchmarks.target import Target


class Scale(NamedTuple):
    """How much of it."""

    rows: int
    calm: float
    """The seconds for which the clients are measured without a migration."""


FULL = Scale(rows=5_000_000, calm=20.0)
QUICK = Scale(rows=20_000, calm=1.0)

CLIENTS = 50
PERIOD = 0.5  # Seconds between two statements of a client. Half of the clients read, the other half write.
LIMIT = 3_600.0

FILL = "UPDATE orders SET cents = euros * 100, times = times + 1"
ONE = {"001_fill.sql": f"{FILL};\n"}


def _in_batches(*more: str) -> dict[str, str]:
    said = "".join(f"-- entrypoint: {line}\n" for line in ("batch = orders(id) by 10000", *more))
    return {"001_fill.sql": f"{said}{FILL} WHERE id BETWEEN :from AND :to;\n"}


WAYS: dict[str, dict[str, str] | None] = {
    "no migration": None,
    "batches, target 500 ms (the default)": _in_batches(),
    "batches, target 100 ms": _in_batches("target = 100ms"),
    "batches, target 100 ms, pause 100 ms": _in_batches("target = 100ms", "pause = 100ms"),
    "one UPDATE": ONE,
}
# The same as the third of these.
KILLED = "target 100 ms, killed and started again ten times"
TIMES = 10


class Run(NamedTuple):
    """How one way of filling the column affected the clients."""

    reads: list[float]
    """Seconds that each statement took, from when it was due."""
    writes: list[float]
    migration: float
    """Seconds until the migration was applied."""
    wal: int
    """Bytes of WAL that were written meanwhile, including the clients'."""
    lag: int
    """The most bytes that a standby still had to replay."""


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Fill the same column in several ways, each in a new table, next to the same clients."""
    section = Section(
        f"A column of {scale.rows} rows filled under traffic: {CLIENTS} clients, {CLIENTS / PERIOD:.0f} statements a "
        "second in all, half of them writes to random rows",
        ("how", "in after", "reads: median", "p99", "worst", "writes: median", "p99", "worst", "WAL", "lag, worst"),
    )
    with contextlib.closing(Standby(stage.server)) as standby:
        standby.start(standby=True)
        for name, files in {**WAYS, KILLED: _in_batches("target = 100ms")}.items():
            run = _beside_traffic(stage, files, scale, kill=name == KILLED)
            section.values[name] = {
                "reads": [round(wait, 6) for wait in run.reads],
                "writes": [round(wait, 6) for wait in run.writes],
                "migration": run.migration,
                "wal": run.wal,
                "lag": run.lag,
            }
            took = f"{run.migration:.1f} s" if files else "-"
            sizes = tuple(f"{size / 2**20:.0f} MB" for size in (run.wal, run.lag))
            section.rows.append((name, took, *_figures(run.reads), *_figures(run.writes), *sizes))
    section.notes.append(
        "Each statement is measured from when it was due, because a client that is kept waiting sends it late. The WAL "
        "includes the clients', so it is more if filling takes longer. A standby on the same machine follows all the "
        "time; its lag is what it still had to replay, checked ten times a second."
    )
    return [section]


def _figures(waits: list[float]) -> tuple[str, str, str]:
    waits = sorted(waits)
    return seconds(statistics.median(waits)), seconds(waits[int(len(waits) * 0.99)]), seconds(waits[-1])


def _beside_traffic(stage: Stage, files: dict[str, str] | None, scale: Scale, *, kill: bool) -> Run:
    with stage.database() as target, psycopg.connect(target.url, autocommit=True) as owner:
        owner.execute(
            "CREATE TABLE orders (id bigint PRIMARY KEY, euros int, cents int, times int NOT NULL DEFAULT 0, "
            "note text NOT NULL DEFAULT repeat('x', 50))"
        )
        owner.execute(f"INSERT INTO orders SELECT n, n FROM generate_series(1, {scale.rows}) n".encode())
        owner.execute("VACUUM ANALYZE orders")
        owner.execute("CHECKPOINT")
        with _clients(target, scale.rows) as (reads, writes), _lag(target) as lags:
            time.sleep(1.0)
            _caught_up(owner)
            lags.clear()
            began, wal = time.monotonic(), _wal(owner)
            if files is None:
                time.sleep(scale.calm)
            else:
                folder = stage.folder(files)
                if kill:
                    _start_and_kill(stage, target, folder)
                stage.migrate(target, folder, limit=LIMIT)
            migration, wal = time.monotonic() - began, _wal(owner) - wal
            waits = [[wait for due, wait in seen.copy() if due >= began] for seen in (reads, writes)]
        if files is not None and owner.execute("SELECT FROM orders WHERE times <> 1 LIMIT 1").rowcount:
            raise BenchmarkError("a row was not changed exactly once")
        return Run(waits[0], waits[1], migration, wal, max(lags, default=0))


def _start_and_kill(stage: Stage, target: Target, folder: Path) -> None:
    """Start the migration and kill it again and again, each time at a different moment."""
    moments = random.Random(TIMES)
    for _ in range(TIMES):
        environment = stage.environment(target, folder)
        with subprocess.Popen([stage.entrypoint, "migrate"], env=environment, stderr=subprocess.DEVNULL) as run:
            time.sleep(moments.uniform(0.3, 1.5))
            run.kill()


def _wal(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    return row[0] if row else 0


_BEHIND = b"SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint FROM pg_stat_replication"


def _caught_up(connection: psycopg.Connection) -> None:
    """Wait until the standby has caught up."""
    end = time.monotonic() + 120
    while (row := connection.execute(_BEHIND).fetchone()) is None or row[0] is None or row[0] > 1 << 20:
        if time.monotonic() > end:
            raise BenchmarkError("the standby does not follow")
        time.sleep(0.1)


@contextlib.contextmanager
def _lag(target: Target) -> Iterator[list[int]]:
    """Yield a growing list: how far the standby is behind."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        with psycopg.connect(target.url, autocommit=True) as connection:
            while not stop.wait(0.1):
                row = connection.execute(_BEHIND).fetchone()
                seen.append(row[0] or 0 if row else 0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _clients(target: Target, rows: int) -> Iterator[tuple[list[tuple[float, float]], list[tuple[float, float]]]]:
    """Let the clients work; yield two growing lists: when each statement was due, and how long it took."""
    reads: list[tuple[float, float]] = []
    writes: list[tuple[float, float]] = []
    stop = threading.Event()
    connections = [psycopg.connect(target.url, autocommit=True) for _ in range(CLIENTS)]
    origin = time.monotonic()

    def work(number: int, connection: psycopg.Connection) -> None:
        numbers = random.Random(number)
        due = origin + PERIOD * number / CLIENTS
        while not stop.wait(max(0.0, due - time.monotonic())):
            row = (numbers.randint(1, rows),)
            if number % 2:
                connection.execute("SELECT note FROM orders WHERE id = %s", row).fetchall()
                reads.append((due, time.monotonic() - due))
            else:
                connection.execute("UPDATE orders SET euros = euros + 1 WHERE id = %s", row)
                writes.append((due, time.monotonic() - due))
            due += PERIOD

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(connections)]
    for thread in threads:
        thread.start()
    try:
        yield reads, writes
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
