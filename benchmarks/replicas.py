"""Replicas that start together: how soon after the last commit all are up, and the load on the server."""

from __future__ import annotations

import collections
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.crowd import Crowd, Gate, entrypoints, until, within
from benchmarks.figures import median, ratio, slopes
from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, exponent, seconds, times

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.tools import Peer
    from benchmarks.stage import Stage
    from benchmarks.target import Target


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    replicas: tuple[int, ...]
    window: float
    """Seconds for which all are observed while they wait."""
    peers: int
    """The number of replicas of each peer."""
    limit: float
    """Seconds in which the peers' replicas must end after the last commit."""


FULL = Scale(runs=1, replicas=(2, 10, 30, 100), window=5, peers=10, limit=30)
QUICK = Scale(runs=1, replicas=(2, 4), window=1, peers=2, limit=30)

OURS = "entrypoint run"

# The last migration still waits at the gate when all have arrived.
_TABLE = "behind_the_gate"
FILES = {**migrations.small(5), "006_gate.sql": f"{Gate.SQL}CREATE TABLE {_TABLE} ();\n"}


class Figures(NamedTuple):
    """One run."""

    last: float
    """Seconds from the last commit to the last application's first instruction."""
    middle: float
    """The same for the median of the applications."""
    limit: float
    """Seconds that as many Python processes, which wait for one signal, take to exec the same application."""
    transactions: float
    sessions: float
    """Counted from the first start to the last end."""
    looks: float
    """Transactions per replica and second while all of them wait."""
    server: float
    """The server's CPU seconds per second meanwhile."""


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Measure growing numbers of our replicas, and some of each peer."""
    return [_ours(stage, scale), _peers(stage, scale)]


def _ours(stage: Stage, scale: Scale) -> Section:
    section = Section(
        f"Replicas: cold starts at once; all others wait for one ({'median of ' if scale.runs > 1 else ''}"
        f"{scale.runs} run{'s' * (scale.runs > 1)} each)",
        (
            "replicas",
            "last commit to last application",
            "exponent",
            "the machine alone",
            "ours is",
            "to the median one",
            "transactions",
            "exponent",
            "sessions",
            "exponent",
            "while waiting: transactions per replica and second",
            "server's CPU",
            "exponent",
        ),
    )
    if stage.application is None:
        section.missing.append("everything: no C compiler for the application that reports its time")
        return section
    folder = stage.folder(FILES)
    series = [[_once(stage, folder, count, scale.window) for _ in range(scale.runs)] for count in scale.replicas]
    columns = {name: [median([getattr(run, name) for run in runs]) for runs in series] for name in Figures._fields}
    growth = {name: slopes(scale.replicas, values) for name, values in columns.items()}
    for index, count in enumerate(scale.replicas):
        value = {name: values[index] for name, values in columns.items()}
        power = {name: exponent(exponents[index]) for name, exponents in growth.items()}
        section.rows.append(
            (
                str(count),
                seconds(value["last"]),
                power["last"],
                seconds(value["limit"]),
                times(ratio(value["last"], value["limit"])),
                seconds(value["middle"]),
                f"{value['transactions']:.0f}",
                power["transactions"],
                f"{value['sessions']:.0f}",
                power["sessions"],
                f"{value['looks']:.1f}",
                f"{value['server']:.1%}",
                power["server"],
            )
        )
        runs = [run._asdict() for run in series[index]]
        section.values[str(count)] = {"runs": runs, "exponents": {name: growth[name][index] for name in growth}}
    section.notes += [
        "In each run, exactly one replica migrated and all others waited; otherwise, the run would have failed.",
        "Last commit: the server's commit timestamp. Application: its own clock at its first instruction.",
        "The machine alone: the same number of Python processes wait for the end of one pipe, then exec the same",
        "application; the time from that end to the last one's first instruction.",
        "Transactions and sessions: as the server counted them, from the first start to the last end, including the",
        "holder's and two sessions of the benchmark itself. While waiting: over",
        f"{scale.window:g} s in which all wait. Server's CPU: as a share of one core.",
    ]
    return section


def _once(stage: Stage, folder: Path, count: int, window: float) -> Figures:
    """Start `count` replicas, let them all wait, and open the gate."""
    with (
        stage.database() as target,
        Gate(stage, target) as gate,
        entrypoints(stage, target, folder, app=[stage.application or "true"]) as crowd,
    ):
        for _ in range(count):
            crowd.start()
        crowd.first(gate)
        until(lambda: len(crowd.waiting) == count - 1, 120, "all others waiting")
        time.sleep(2.5)  # a backend reports at most once a second, and only when it executes something
        (before, _), cpu, began = gate.counts(), stage.server_cpu_now(), time.monotonic()
        time.sleep(window)
        (after, _), spent, took = gate.counts(), stage.server_cpu_now() - cpu, time.monotonic() - began
        gate.open()
        for replica in crowd.replicas:
            replica.process.wait(120)
        committed = gate.committed(_TABLE)
        told = [replica.told() for replica in crowd.replicas]
        outcomes = collections.Counter(each.outcome for each in told)
        if outcomes != {"migrated": 1, "waited": count - 1} or committed is None:
            raise BenchmarkError(f"{count} replicas: {dict(outcomes)}")
        delays = [each.realtime / 1e9 - committed for each in told]
        limit = _limit(stage, count)
        time.sleep(0.5)  # backends report when they end
        transactions, sessions = gate.counts()
        return Figures(
            last=max(delays),
            middle=median(delays),
            limit=limit,
            transactions=transactions,
            sessions=sessions,
            looks=(after - before) / took / count,
            server=spent / took,
        )


# Waits until the writing end of the pipe is closed.
_WAITS = "import os, sys; os.read(os.open(sys.argv[1], os.O_RDONLY), 1); os.execv(sys.argv[2], sys.argv[2:])"


def _limit(stage: Stage, count: int) -> float:
    """Return how long the machine takes to execute `count` applications, in seconds."""
    pipe = stage.empty_folder() / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    argv: list[str | Path] = [stage.python, "-I", "-c", _WAITS, pipe, stage.application or "true"]
    try:
        with Crowd(stage, argv, {}) as crowd:
            for _ in range(count):
                crowd.start()
            crowd.calm(60)
            began = time.time()
            os.close(writer)
            writer = -1
            for replica in crowd.replicas:
                replica.process.wait(60)
            return max(replica.told().realtime / 1e9 for replica in crowd.replicas) - began
    finally:
        if writer >= 0:
            os.close(writer)


def _peers(stage: Stage, scale: Scale) -> Section:
    """Start some replicas of each tool in the same way, and observe the result."""
    section = Section(
        f"Replicas: {scale.peers} cold starts of each tool at once",
        ("", "in the migration at once", "succeeded", "failed", "did not end", "last commit to the last success"),
        missing=stage.peers.missing,
        notes=[
            f'"Did not end": within {scale.limit:g} s of the commit. A platform would repeat a failed start.',
            "Success: the end of the process, as polled; for entrypoint, of the application.",
        ],
    )
    ours = stage.folder(FILES)
    with stage.database() as target, entrypoints(stage, target, ours, app=["true"]) as crowd:
        _add(section, OURS, _together(stage, target, crowd, scale))
    for peer in stage.peers.present:
        with stage.database() as target, _crowd_of(stage, peer, target) as crowd:
            try:
                _add(section, peer.name, _together(stage, target, crowd, scale))
            except BenchmarkError as error:
                section.missing.append(f"{peer.name}: {error}")
    return section


def _crowd_of(stage: Stage, peer: Peer, target: Target) -> Crowd:
    folder = stage.empty_folder()
    peer.write(folder, FILES)
    command = peer.command(folder, target)
    return Crowd(stage, command.argv, command.env)


class Fate(NamedTuple):
    """The result of replicas that started together."""

    inside: int
    good: int
    failed: int
    hanging: int
    last: float | None


def _together(stage: Stage, target: Target, crowd: Crowd, scale: Scale) -> Fate:
    with Gate(stage, target) as gate:
        for _ in range(scale.peers):
            crowd.start()
        crowd.first(gate)
        crowd.calm(60)
        inside = len(gate.arrivals())
        gate.open()
        ends: dict[int, float] = {}

        def all_ended() -> bool:
            for number, replica in enumerate(crowd.replicas):
                if number not in ends and not replica.running:
                    ends[number] = time.time()
            return len(ends) == len(crowd.replicas)

        within(all_ended, scale.limit)
        committed = gate.committed(_TABLE)
    good = [number for number in ends if crowd.replicas[number].process.returncode == 0]
    last = max((ends[number] for number in good), default=None)
    return Fate(
        inside,
        len(good),
        len(ends) - len(good),
        len(crowd.replicas) - len(ends),
        None if last is None or committed is None else last - committed,
    )


def _add(section: Section, name: str, fate: Fate) -> None:
    section.rows.append((name, *map(str, fate[:4]), seconds(fate.last)))
    section.values[name] = fate._asdict()
