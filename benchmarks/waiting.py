"""A replica that waits while another migrates: what it costs the machine and the server."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.crowd import Crowd, Gate, Replica, entrypoints, rivals, until
from benchmarks.figures import median
from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, mb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.peers.tools import Peer
    from benchmarks.stage import Stage
    from benchmarks.target import Target


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    """Runs for the memory peaks, which hardly vary."""
    window: float
    """Seconds for which a waiting replica is observed."""
    cases: tuple[str, ...]
    """The cases whose peak to measure."""


OURS = "entrypoint run"
LIMIT = 40e6

CASES: dict[str, Mapping[str, str]] = {
    "30 small migrations pending": migrations.small(30),
    "300 migrations of 100 lines pending": migrations.ordinary(300),
    "one of 99,000 characters pending (the parser's limit)": {"002_large.sql": migrations.large(99_000)},
    "one of 5 MB pending": {"002_large.sql": migrations.large(5_000_000)},
    "one of 100 MB pending": {"002_large.sql": migrations.bulk(100_000_000)},
}

FULL = Scale(runs=1, window=30, cases=tuple(CASES))
QUICK = Scale(runs=1, window=2, cases=tuple(CASES)[:1])

_SLOW = f"{Gate.SQL}CREATE TABLE slow ();\n"
_FILES = {"001_slow.sql": _SLOW}

# A statement in a log with the prefix `%m [%p] %q%u@%d/%a `. The extended protocol's messages count when executed.
_STATEMENT = r"^\S+ \S+ \S+ \[(\d+)\] \w+@{database}/(.*?) LOG:  (?:statement|execute [^:]*): "


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Measure what waiting costs, and the peak memory of a waiting process."""
    return [_cost(stage, scale), _memory(stage, scale)]


class Cost(NamedTuple):
    """What one waiting process took per minute."""

    cpu: float
    """Seconds."""
    statements: float


def _cost(stage: Stage, scale: Scale) -> Section:
    section = Section(
        f"Waiting: the cost of one waiting replica, watched for {scale.window:g} s",
        ("", "CPU per minute", "statements per minute"),
        missing=stage.peers.missing,
        notes=["Statements: as the server logged them. CPU: without the server's, in steps of 10 ms."],
    )
    with stage.database(log_statement="all") as target, entrypoints(stage, target, stage.folder(_FILES)) as crowd:
        cost = _watch(stage, target, crowd, scale.window)
        if cost is None:
            raise BenchmarkError(f"the second replica did not wait:\n{crowd.replicas[1].text()}")
        _add(section, OURS, cost)
    with ThreadPoolExecutor(max_workers=8) as pool:
        watched = {peer.name: pool.submit(_watch_peer, stage, peer, scale.window) for peer in stage.peers.present}
        for name, future in watched.items():
            try:
                _add(section, name, future.result())
            except BenchmarkError as error:
                section.missing.append(f"{name}: {error}")
    return section


def _add(section: Section, name: str, cost: Cost | str) -> None:
    if isinstance(cost, str):
        section.rows.append((name, cost, ""))
        section.values[name] = cost
    else:
        section.rows.append((name, f"{cost.cpu:.2f} s", f"{cost.statements:.0f}"))
        section.values[name] = cost._asdict()


def _watch_peer(stage: Stage, peer: Peer, window: float) -> Cost | str:
    with stage.database(log_statement="all") as target, rivals(stage, target, peer, _FILES) as crowd:
        return _watch(stage, target, crowd, window)


def _watch(stage: Stage, target: Target, crowd: Crowd, window: float) -> Cost | str:
    """Start one, and a second one when the first is in the migration; observe how the second one waits."""
    with Gate(stage, target) as gate:
        crowd.start()
        crowd.first(gate)
        time.sleep(4)  # after 3 s, the first one opens another connection
        others = gate.backends()
        # Our replica may connect again; its application name identifies it.
        names = {name for name in gate.names() if ":" in name}
        waiter = crowd.start()
        time.sleep(1)
        crowd.calm(30)
        if len(gate.arrivals()) > 1:
            return "does not wait: it migrates too"
        mark, cpu, began = stage.server.log_size(), waiter.cpu(), time.monotonic()
        time.sleep(window)
        if not waiter.running:
            return f"does not wait: it failed ({waiter.process.returncode})"
        cpu, took = waiter.cpu() - cpu, time.monotonic() - began
        statements = 0
        pattern = re.compile(_STATEMENT.format(database=target.database), re.MULTILINE)
        for found in pattern.finditer(stage.server.log_text(mark)):
            statements += int(found[1]) not in others and found[2] not in names
        return Cost(cpu / took * 60, statements / took * 60)


def _memory(stage: Stage, scale: Scale) -> Section:
    section = Section(
        f"Waiting: the peak memory of a waiting replica ({'one run' if scale.runs == 1 else f'{scale.runs} runs'})",
        ("", "peak", f"of {LIMIT / 1e6:.0f} MB"),
    )
    for name in scale.cases:
        folder = stage.folder({"000_slow.sql": _SLOW, **CASES[name]})
        peaks = []
        for _ in range(scale.runs):
            with stage.database() as target:
                peaks.append(_peak(stage, target, folder))
        section.rows.append((name, mb(median(peaks)), f"{median(peaks) / LIMIT:.0%}"))
        section.values[name] = peaks
    section.notes.append("The most memory (VmHWM) that the process had used when it had waited for 3 s.")
    return section


def _peak(stage: Stage, target: Target, folder: Path) -> int:
    """Start one replica, and a second one when the first is at the gate; return the second one's peak, in bytes."""
    with Gate(stage, target) as gate, entrypoints(stage, target, folder) as crowd:
        crowd.start()
        crowd.first(gate)
        waiter = crowd.start()
        until(lambda: "lock.waiting" in waiter.events(), 60, "the second one waiting")
        time.sleep(3)
        return _peak_of(waiter)


def _peak_of(replica: Replica) -> int:
    lines = Path(f"/proc/{replica.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
