"""A start with nothing to do, which is nearly every start of every container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import migrations
from benchmarks.measure import Contestant, in_turns
from benchmarks.report import Section, ms, ratio

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Sample
    from benchmarks.stage import Stage

RUNS = 21
FILES = 30

_ASK = "import psycopg, sys; psycopg.connect(sys.argv[1]).execute('select 1').fetchone()"

OURS = "entrypoint run -- true"
DISABLED = "AUTO_MIGRATE=false entrypoint run -- true"
PYTHON = "python -I -c pass"
PSYCOPG = "python -I: import psycopg; connect; select 1"
PSQL = "psql -X -c 'select 1'"
NOTHING = "true"


def measure(stage: Stage, runs: int) -> Section:
    """Measure from the start of the process to the end of an application that does nothing."""
    folder = stage.folder(migrations.small(FILES))
    with stage.database() as url:
        stage.migrate(url, folder)
        env = stage.environment(url, folder)

        def contestant(name: str, *argv: str | Path, **more: str) -> Contestant:
            def run() -> Sample:
                return stage.spawner.run(argv, {**env, **more})

            return Contestant(name, run)

        contestants = [
            contestant(OURS, stage.entrypoint, "run", "--", "true"),
            contestant(DISABLED, stage.entrypoint, "run", "--", "true", AUTO_MIGRATE="false"),
            contestant(PSYCOPG, stage.python, "-I", "-c", _ASK, url),
            contestant(PYTHON, stage.python, "-I", "-c", "pass"),
            contestant(NOTHING, "/bin/true"),
        ]
        missing = []
        if stage.psql is not None:
            contestants.append(contestant(PSQL, stage.psql, "-X", "-A", "-t", "-c", "select 1", url))
        else:
            missing.append("psql: not among the server's programs")
        summaries = in_turns(contestants, runs)

    ours = summaries[OURS]
    section = Section(
        f"Up to date: {FILES} applied files, nothing pending (medians of {runs} runs in turns)",
        ("", "wall", "of it", "CPU", "of it", "peak"),
        missing=missing,
        values={name: summary._asdict() for name, summary in summaries.items()},
    )
    for name, summary in sorted(summaries.items(), key=lambda item: -item[1].wall):
        section.rows.append(
            (
                name,
                ms(summary.wall, 1),
                ratio(ours.wall, summary.wall),
                ms(summary.cpu, 1),
                # The kernel's clock for this is coarse: nothing at all is possible.
                ratio(ours.cpu, summary.cpu) if summary.cpu > 0.002 else "-",
                f"{summary.peak / 1e6:.0f} MB",
            )
        )
    section.notes.append(f'"of it": how many times that {OURS!r} takes. Peaks below 11 MB are the measurement\'s own.')
    return section
