"""Large files: the peak memory of a process and its time, compared with psql."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.figures import ratio
from benchmarks.measure import Contestant, Summary, in_turns
from benchmarks.report import Section, mb, seconds, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.measure import Sample
    from benchmarks.stage import Stage
    from benchmarks.target import Target


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    part: float
    """The fraction of each case's size to use."""


FULL = Scale(runs=3, part=1)
QUICK = Scale(runs=1, part=0.02)

OURS = "entrypoint migrate"
PSQL = "psql -1 -f"
LIMIT = 64e6

_MB = 1_000_000
CASES: dict[str, Callable[[float], str]] = {
    "100 MB in statements of 1,000 characters": lambda part: migrations.bulk(round(100 * _MB * part)),
    "200 MB in statements of 1,000 characters": lambda part: migrations.bulk(round(200 * _MB * part)),
    "17 MB in statements of 80 characters": lambda part: migrations.large(round(17 * _MB * part)),
    "17 MB in eight statements": lambda part: migrations.huge(round(17 * _MB * part), 8),
    "100 MB in one statement": lambda part: migrations.huge(round(100 * _MB * part), 1),
    "a SELECT of 3 million rows": lambda part: (
        f"SELECT number, 'row ' || number FROM generate_series(1, {round(3 * _MB * part)}) number;\n"
    ),
}


def measure(stage: Stage, scale: Scale) -> Iterator[Section]:
    """Measure whole processes that apply one large file, and those that only read it."""
    yield _applying(stage, scale)
    yield _looking(stage, scale)


def _applying(stage: Stage, scale: Scale) -> Section:
    section = Section(
        "Memory: applying one file to an empty database",
        ("", "peak", f"of {LIMIT / _MB:.0f} MB", f"{PSQL}: peak", "wall", f"{PSQL}: wall", "we take", "CPU"),
        notes=[f"Medians of {scale.runs} runs that took turns." if scale.runs > 1 else "One run of each, in turns."],
    )
    if stage.psql is None:
        section.missing.append("psql: not installed with the server")
    for title, make in CASES.items():
        folder = stage.folder({"001_large.sql": make(scale.part)})
        done = in_turns(list(_contestants(stage, folder)), scale.runs, warm_up=False)
        shutil.rmtree(folder)
        ours, psql = done.summaries[OURS], done.summaries.get(PSQL)
        section.rows.append(
            (
                title,
                mb(ours.peak),
                f"{ours.peak / LIMIT:.0%}",
                mb(psql and psql.peak),
                seconds(ours.wall),
                seconds(psql and psql.wall),
                times(psql and ratio(ours.wall, psql.wall)),
                seconds(ours.cpu),
            )
        )
        section.values[title] = {name: summary.values() for name, summary in done.summaries.items()}
    return section


def _contestants(stage: Stage, folder: Path) -> Iterator[Contestant]:
    def contestant(name: str, command: Callable[[Target], Sample]) -> Contestant:
        def run() -> Sample:
            with stage.database() as target:
                return command(target)

        return Contestant(name, run, peer=name != OURS)

    yield contestant(OURS, lambda target: stage.migrate(target, folder))
    if (psql := stage.psql) is not None:
        script = next(folder.iterdir())
        argv = (psql, "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-1", "-f", script)
        yield contestant(PSQL, lambda target: stage.spawner.run([*argv, target.url], {}))


def _looking(stage: Stage, scale: Scale) -> Section:
    """Measure commands that read a file of 100 MB and do not apply it."""
    section = Section(
        "Memory: commands that read a file of 100 MB without applying it",
        ("", "peak", f"of {LIMIT / _MB:.0f} MB", "wall"),
    )
    folder = stage.folder({"001_large.sql": migrations.bulk(round(100 * _MB * scale.part))})

    def add(title: str, target: Target, *words: str) -> None:
        environment = stage.environment(target, folder)
        samples = in_turns(
            [Contestant(title, lambda: stage.spawner.run([stage.entrypoint, *words], environment))],
            scale.runs,
            warm_up=False,
        )
        summary: Summary = samples.summaries[title]
        section.rows.append((title, mb(summary.peak), f"{summary.peak / LIMIT:.0%}", seconds(summary.wall)))
        section.values[title] = summary.values()

    with stage.database() as target:
        add("check", target, "check")
        add("status, pending", target, "status")
        add("migrate --dry-run", target, "migrate", "--dry-run")
        stage.migrate(target, folder)
        add("status, applied", target, "status")
        add("run, up to date", target, "run", "--", "true")
    shutil.rmtree(folder)
    return section
