"""More than one machine can start: thousands of replicas, simulated. And many tenants with a schema each."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from random import uniform
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from benchmarks.figures import median
from benchmarks.measure import BenchmarkError
from benchmarks.report import Section, seconds
from benchmarks.simulation import BACKOFF, Costs, Fleet, Outcome, Pauses, Simulation
from benchmarks.stage import cpu_of_family
from benchmarks.target import Target
from demo.postgres import Server
from entrypoint.database.backoff import pause_in_a_crowd
from entrypoint.database.target import target
from entrypoint.deadline import Deadline
from entrypoint.migration.ledger import reading
from entrypoint.migration.ledger.finding import find
from entrypoint.migration.lock.waiting import pause_while_disconnected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.stage import Stage


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    """Simulations of each fleet; the median one is shown."""
    times: int
    """How often each step is repeated to measure its cost."""
    tenants: int
    fleets: tuple[Fleet, ...]


PLACES = 97  # `max_connections = 100`, the default, without those for superusers.
_CORES = 4
_FLEETS = (
    *(Fleet(replicas, 1, 0, PLACES, _CORES) for replicas in (1_000, 10_000)),
    Fleet(10_000, 60, 0, PLACES, _CORES),
    *(Fleet(replicas, 1, 60, PLACES, _CORES) for replicas in (50, 1_000, 10_000)),
    Fleet(10_000, 300, 60, PLACES, _CORES),
    Fleet(1_000, 1, 600, PLACES, _CORES),
)
FULL = Scale(runs=3, times=300, tenants=200, fleets=_FLEETS)
QUICK = Scale(runs=1, times=20, tenants=4, fleets=(_FLEETS[0], _FLEETS[3]))

# The behaviour before decision 0059, for comparison: equal pauses after refusals, and no connection given up.
_BEFORE = Pauses(lambda _: uniform(BACKOFF / 2, BACKOFF), lambda _: uniform(0.2, 0.4))
_NOW = Pauses(
    lambda refused: pause_in_a_crowd(refused, BACKOFF, uniform), pause_while_disconnected, spare=(PLACES - 1) // 10
)
_FILES = {
    f"{number:03d}_table.sql": f"CREATE TABLE table_{number} (id bigint PRIMARY KEY);\n" for number in range(1, 11)
}


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Measure the server's costs, simulate the fleets, and migrate the tenants."""
    costs, section = _costs(stage, scale.times)
    return [section, _fleets(scale, costs), _tenants(stage, scale.tenants)]


# --- Replicas -------------------------------------------------------------------------------------------


def _costs(stage: Stage, times: int) -> tuple[Costs, Section]:
    """Measure what each step costs the server, in seconds of CPU time."""
    with Server(settings={"max_connections": 20}) as server:
        server.create_database("fleet")
        there = Target("fleet", server.port)
        stage.migrate(there, stage.folder(_FILES))
        login = _each(server, times, lambda: psycopg.connect(there.url).close())
        session = target(there.url, "DATABASE_URL", "0").connect(5)
        place = find(session, None, Deadline(5))
        look = _each(server, times, lambda: reading.look(session, place, None, Deadline(5), contending=True))
        glance = _each(server, times * 10, lambda: reading.is_free(session, place, Deadline(5)))
        session.close()
        others = [psycopg.connect(there.url) for _ in range(20)]
        refusal = _each(server, times, lambda: _refused(there))
        for other in others:
            other.close()
    costs = Costs(login, refusal, look, glance)
    section = Section(
        f"Fleet: what each step costs the server (mean of {times})",
        ("", "CPU"),
        rows=[(name, f"{cost * 1000:.2f} ms") for name, cost in costs._asdict().items()],
        values=costs._asdict(),
        notes=["TCP without TLS, a trusted user, 10 applied files. TLS and SCRAM make a login more expensive."],
    )
    return costs, section


def _each(server: Server, times: int, act: Callable[[], object]) -> float:
    before = cpu_of_family(server.pid)
    for _ in range(times):
        act()
    return (cpu_of_family(server.pid) - before) / times


def _refused(there: Target) -> None:
    try:
        psycopg.connect(there.url)
    except psycopg.OperationalError:
        return
    raise BenchmarkError("the server has connections left")


def _fleets(scale: Scale, costs: Costs) -> Section:
    section = Section(
        f"Fleet: simulated, {PLACES} connections, a server with {_CORES} processors",
        (
            "replicas",
            "start within",
            "migrations",
            "get through",
            "before 0059",
            "last one up",
            "logins",
            "refused",
            "queue",
        ),
    )
    for fleet in scale.fleets:
        now, before = (
            [Simulation(fleet, costs, pauses).run() for _ in range(scale.runs)] for pauses in (_NOW, _BEFORE)
        )
        shown = sorted(now, key=lambda one: len(one.up))[len(now) // 2]
        section.rows.append(
            (
                f"{fleet.replicas:,}",
                f"{fleet.spread:g} s",
                f"{fleet.work:g} s" if fleet.work else "none",
                _share(now),
                _share(before),
                f"{shown.up[-1] - max(shown.released, fleet.spread):+.1f} s" if shown.up else "-",
                f"{shown.logins:,}",
                f"{shown.refusals:,}",
                seconds(shown.behind),
            )
        )
        section.values["_".join(f"{value:g}" for value in fleet)] = [one._asdict() for one in now]
    section.notes += [
        "The rest give up after MIGRATION_LOCK_TIMEOUT_MS (30 s) of refusals or DB_CONNECT_ATTEMPTS timeouts; by",
        "default, their applications start anyway. Last one up: after the last start, or after the end of the",
        "migrations if that is later. Queue: the longest wait for one of the server's processors.",
    ]
    return section


def _share(outcomes: Sequence[Outcome]) -> str:
    share = median([len(one.up) / (len(one.up) + one.failed) for one in outcomes])
    return f"{int(share * 1000) / 10:g} %"


# --- Tenants --------------------------------------------------------------------------------------------


def _tenants(stage: Stage, tenants: int) -> Section:
    section = Section(
        f"Tenants: {tenants} schemas in one database, 10 files each, migrated by a loop with `entrypoint migrate`",
        ("at once", "all of them, new", "each", "all up to date", "each", "10,000 up to date"),
        notes=[
            "Each tenant has a separate schema, migration history and lock. The server is on the same two processors.",
            "The last column extrapolates the previous one to 10,000.",
        ],
    )
    folder = stage.folder(_FILES)
    for at_once in (1, 2, 4, 8):
        with stage.database() as there:
            with psycopg.connect(there.url, autocommit=True) as connection:
                for number in range(tenants):
                    connection.execute(f"CREATE SCHEMA tenant_{number}")
            environments = [
                stage.environment(there, folder, PGOPTIONS=f"-c search_path=tenant_{number}", LOG_LEVEL="error")
                for number in range(tenants)
            ]
            new, up_to_date = (_loop(stage, environments, at_once) for _ in range(2))
        section.values[str(at_once)] = {"new": new, "up_to_date": up_to_date}
        each = up_to_date / tenants
        section.rows.append(
            (
                str(at_once),
                seconds(new),
                seconds(new / tenants),
                seconds(up_to_date),
                seconds(each),
                seconds(each * 10_000),
            )
        )
    return section


def _loop(stage: Stage, environments: Sequence[dict[str, str]], at_once: int) -> float:
    """Migrate all tenants, some of them at once; return the seconds for all."""

    def migrate(environment: dict[str, str]) -> None:
        subprocess.run([stage.entrypoint, "migrate"], env=environment, stderr=subprocess.DEVNULL, check=True)

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(migrate, environments))
    return time.monotonic() - began
