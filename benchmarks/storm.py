"""Many replicas at once on a server with few connections: whether all succeed, and the load on the server."""

from __future__ import annotations

import collections
import os
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measure import BenchmarkError
from benchmarks.report import Section
from benchmarks.target import Target
from demo.postgres import Server

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.stage import Stage


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    """One run for each number of replicas."""
    replicas: tuple[int, ...]


FULL = Scale(runs=1, replicas=(10, 50, 100, 200))
QUICK = Scale(runs=1, replicas=(4,))

MAX_CONNECTIONS = 20
WORK = 10.0  # Seconds of migrations, so that at some time all replicas are waiting.

FILES = {
    f"{number:03d}_step.sql": f"CREATE TABLE step_{number} ();\nSELECT pg_sleep({WORK / 5});\n"
    for number in range(1, 6)
}


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Start replicas at the same moment, cold and with pending migrations, and count the server's load."""
    section = Section(
        f"Storm: replicas at once, max_connections = {MAX_CONNECTIONS}, {WORK:.0f} s of migrations",
        ("replicas", "last one up", "logins", "refused", "transactions", "each: logins", "transactions", "server CPU"),
    )
    folder = stage.folder(FILES)
    for replicas in scale.replicas:
        figures = _storm(stage, folder, replicas)
        section.values[str(replicas)] = figures
        section.rows.append(
            (
                str(replicas),
                f"{figures['seconds']:.1f} s",
                f"{figures['logins']:.0f}",
                f"{figures['refused']:.0f}",
                f"{figures['transactions']:.0f}",
                f"{figures['logins'] / replicas:.1f}",
                f"{figures['transactions'] / replicas:.1f}",
                f"{figures['server_cpu']:.1f} s",
            )
        )
    section.notes.append(
        "All replicas reached their application and exactly one of them migrated; otherwise, this would have failed."
    )
    section.notes.append("Starting the processes takes most of the time: about 0.15 s of CPU time each.")
    return [section]


def _storm(stage: Stage, folder: Path, replicas: int) -> dict[str, float]:
    settings: dict[str, str | int] = {"max_connections": MAX_CONNECTIONS, "log_connections": "on"}
    with Server(settings=settings) as server:
        server.create_database("storm")
        env = stage.environment(
            Target("storm", server.port), folder, MIGRATION_LOCK_TIMEOUT_MS="300000", LOG_LEVEL="error"
        )
        mark, cpu = server.log_size(), _cpu(server)
        argv: list[str | Path] = [stage.entrypoint, "run", "--", "sh", "-c", "echo $ENTRYPOINT_OUTCOME"]
        began = time.monotonic()
        processes = [
            subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(replicas)
        ]
        outcomes = collections.Counter(process.communicate(timeout=600)[0].strip() for process in processes)
        seconds = time.monotonic() - began
        log = server.log_text(mark)
        with server.connect("storm") as connection:
            row = connection.execute(
                "SELECT xact_commit + xact_rollback, "
                "(SELECT count(*) FROM schema_migrations WHERE status = 'completed') "
                "FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
        if row is None or row[1] != len(FILES) or outcomes["migrated"] != 1 or outcomes["failed"]:
            msg = f"{replicas} replicas: {dict(outcomes)}, {row}"
            raise BenchmarkError(msg)
        return {
            "seconds": seconds,
            "logins": log.count("connection authorized"),
            "refused": log.count("too many clients already") + log.count("remaining connection slots"),
            "transactions": float(row[0]),
            "server_cpu": _cpu(server) - cpu,
        }


def _cpu(server: Server) -> float:
    """Return the CPU seconds of the server and all its children that have ended."""
    with open(f"/proc/{server.pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - not a path of ours
        fields = file.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
