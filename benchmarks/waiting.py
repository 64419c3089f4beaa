"""A replica that waits while another migrates: how much memory it takes."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import migrations
from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, mb

if TYPE_CHECKING:
    from benchmarks.stage import Stage

RUNS = 1  # It hardly varies.
LIMIT = 60e6

_HOLD = {"000_slow.sql": "SELECT pg_sleep(1);\n"}
CASES = {
    "30 small migrations pending": {**_HOLD, **migrations.small(30)},
    "300 migrations of 100 lines pending": {**_HOLD, **migrations.ordinary(300)},
    "one of 99,000 characters pending (the parser's most)": {**_HOLD, "001_large.sql": migrations.large(99_000)},
    "one of 5 MB pending": {**_HOLD, "001_large.sql": migrations.large(5_000_000)},
}


def measure(stage: Stage, runs: int) -> Section:
    """Measure the most that a waiting process had at any time before its application's start."""
    section = Section(
        f"Waiting: the peak memory of a replica that waits ({'one run' if runs == 1 else f'medians of {runs} runs'})",
        ("", "peak", f"of {LIMIT / 1e6:.0f} MB"),
    )
    for name, files in CASES.items():
        folder = stage.folder(files)
        peaks = []
        for _ in range(runs):
            with stage.database() as url:
                peaks.append(_peak_while_waiting(stage, url, folder))
        peak = statistics.median(peaks)
        section.rows.append((name, mb(peak), f"{peak / LIMIT:.0%}"))
        section.values[name] = peaks
    return section


def _peak_while_waiting(stage: Stage, url: str, folder: Path) -> int:
    """Start one replica, and a second one when the first has the lock; return the second's peak, in bytes."""
    env = stage.environment(url, folder, MIGRATION_LOCK_TIMEOUT_MS="60000")
    argv: list[str | Path] = [stage.entrypoint, "run", "--", "true"]
    # Files, not pipes: a program whose log nobody reads would stop in the middle.
    first, second = stage.directory / "leader.log", stage.directory / "waiter.log"
    with first.open("wb") as output, subprocess.Popen(argv, env=env, stderr=output) as leader:
        while leader.poll() is None and "lock.acquired" not in _events(first):
            time.sleep(0.005)
        with second.open("wb") as waiters, subprocess.Popen(argv, env=env, stderr=waiters) as waiter:
            peak = 0
            while waiter.poll() is None:
                peak = _peak_of(waiter.pid, entrypoint=stage.entrypoint) or peak
                time.sleep(0.005)
    if not {"lock.waiting", "schema.waited"} <= set(_events(second)):
        msg = f"the second replica did not wait:\n{second.read_text()}"
        raise BenchmarkError(msg)
    return peak


def _events(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _peak_of(pid: int, *, entrypoint: Path) -> int:
    """Return the process's peak so far (VmHWM, which begins anew with exec), or 0 if it is the application by now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return 0
    if bytes(entrypoint) not in command:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
