"""A schema change under traffic: how long readers wait while an ALTER TABLE waits for a table in use."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.stage import Stage
    from benchmarks.target import Target


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    long: float
    """The seconds for which the long transaction stays open after the migration has begun."""


FULL = Scale(runs=3, long=10.0)
QUICK = Scale(runs=1, long=2.0)

CLIENTS = 50
PERIOD = 1.0  # Seconds between two queries of a client; all clients send CLIENTS / PERIOD queries a second.
CALM = 1.0  # Seconds of traffic before and after.
ROWS = 100_000

FILES = {"001_note.sql": "ALTER TABLE orders ADD COLUMN note text;\n"}
NEVER_MS = "600000"


class Run(NamedTuple):
    """How one migration affected the clients."""

    waits: list[float]
    """Seconds that each query took, from when it was due."""
    migration: float
    """Seconds until the migration was applied."""


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Run the same migration in four ways, in turns, with the same traffic and the same long transaction."""
    folder = stage.folder(FILES)

    def entrypoint(lock_timeout_ms: str) -> Callable[[Target], None]:
        def run(target: Target) -> None:
            env = stage.environment(target, folder, MIGRATION_DDL_LOCK_TIMEOUT_MS=lock_timeout_ms)
            stage.spawner.run([stage.entrypoint, "migrate"], env)

        return run

    ways: dict[str, Callable[[Target], None]] = {
        "entrypoint, lock timeout 500 ms": entrypoint("500"),
        "entrypoint, 5000 ms (the default)": entrypoint("5000"),
        "entrypoint, no lock timeout": entrypoint(NEVER_MS),
    }
    section = Section(
        f"Schema change under traffic: {CLIENTS} readers, {CLIENTS / PERIOD:.0f} queries a second in all, one "
        f"transaction that stays open for {scale.long:.0f} s, ALTER TABLE",
        ("migration by", "readers: median", "p99", "worst", "waited > 100 ms", "migration in after"),
    )
    psql = stage.psql
    if psql is None:
        section.missing.append("psql: not installed with the server")
    else:
        argv: list[str | Path] = [
            psql,
            "--no-psqlrc",
            "--quiet",
            "--set",
            "ON_ERROR_STOP=1",
            "--file",
            folder / "001_note.sql",
        ]
        ways["psql -f"] = lambda target: _nothing(stage.spawner.run([*argv, target.url], {"PATH": "/usr/bin:/bin"}))
    taken: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(scale.runs):
        for name, migrate in ways.items():
            taken[name].append(_beside_traffic(stage, migrate, scale.long))
    for name, results in taken.items():
        waits = sorted(wait for run in results for wait in run.waits)
        section.values[name] = {
            "waits": [[round(wait, 6) for wait in run.waits] for run in results],
            "migration": [run.migration for run in results],
        }
        section.rows.append(
            (
                name,
                seconds(statistics.median(waits)),
                seconds(waits[int(len(waits) * 0.99)]),
                seconds(waits[-1]),
                f"{sum(wait > 0.1 for wait in waits) / len(waits):.0%}",
                f"{statistics.median(run.migration for run in results):.1f} s",
            )
        )
    section.notes.append(
        f"All queries of {'one run' if scale.runs == 1 else f'{scale.runs} runs'} from the migration's start to "
        f"{CALM:.0f} s after its end, each from when it was due: if a client is kept "
        "waiting, its next query is late, and the delay counts as waiting."
    )
    return [section]


def _nothing(_: object) -> None:
    """Drop a result."""


def _beside_traffic(stage: Stage, migrate: Callable[[Target], None], long: float) -> Run:
    with stage.database() as target, psycopg.connect(target.url, autocommit=True) as owner:
        owner.execute(
            "CREATE TABLE orders AS SELECT i AS id, repeat('x', 100) AS filler FROM generate_series(1, %s) i".replace(
                "%s", str(ROWS)
            ).encode()
        )
        owner.execute("ALTER TABLE orders ADD PRIMARY KEY (id)")
        owner.execute("VACUUM ANALYZE orders")
        with _readers(target.url) as waits, psycopg.connect(target.url, autocommit=True) as report:
            report.execute("BEGIN")
            report.execute("SELECT count(*) FROM orders")
            time.sleep(CALM)
            end = threading.Timer(long, report.execute, ("COMMIT",))
            end.start()
            began = time.monotonic()
            migrate(target)
            migration = time.monotonic() - began
            end.join()
            time.sleep(CALM)
            seen = [wait for due, wait in waits.copy() if due >= began]
        if not owner.execute(
            "SELECT FROM pg_attribute WHERE attrelid = 'orders'::regclass AND attname = 'note'"
        ).rowcount:
            raise BenchmarkError("the migration was not applied")
        return Run(seen, migration)


@contextlib.contextmanager
def _readers(url: str) -> Iterator[list[tuple[float, float]]]:
    """Let the clients read; yield a growing list: when each query was due, and how long it took."""
    waits: list[tuple[float, float]] = []
    stop = threading.Event()
    connections = [psycopg.connect(url, autocommit=True) for _ in range(CLIENTS)]
    origin = time.monotonic()

    def read(number: int, connection: psycopg.Connection) -> None:
        due = origin + PERIOD * number / CLIENTS
        while not stop.wait(max(0.0, due - time.monotonic())):
            connection.execute("SELECT filler FROM orders WHERE id = %s", (1 + hash((number, due)) % ROWS,)).fetchall()
            waits.append((due, time.monotonic() - due))
            due += PERIOD

    threads = [threading.Thread(target=read, args=pair) for pair in enumerate(connections)]
    for thread in threads:
        thread.start()
    try:
        yield waits
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
