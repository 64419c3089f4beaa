"""An up-to-date start with more and more files or rows, and what grows faster than linearly."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.figures import slopes, worse_than_linear
from benchmarks.measure import BenchmarkError, Contestant, in_turns
from benchmarks.report import Section, exponent, mb, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.measure import Sample, Summary
    from benchmarks.stage import Stage


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    sizes: tuple[int, ...]
    limit: float
    """Seconds within which a peer must apply all files of one size."""


FULL = Scale(runs=7, sizes=(10, 100, 1_000, 10_000), limit=60)
QUICK = Scale(runs=1, sizes=(10, 100), limit=60)

OURS = "entrypoint run"
# The peer that is fastest with few files.
PEER = "dbmate up"
FILES = 10

# Rows for migrations whose files an older image does not have.
_AHEAD = """
    INSERT INTO schema_migrations (migration_number, filename, application_version, execution_time_ms, status, checksum)
    SELECT number, lpad(number::text, 3, '0') || '_table.sql', '1.0.0', 1, 'completed', repeat('0', 64)
    FROM generate_series(%s + 1, %s) number
"""


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Measure starts with many applied files, and with many rows of which few have a file."""
    return [*_files(stage, scale), _rows(stage, scale)]


def _start(stage: Stage, database: str, folder: Path) -> Sample:
    argv: list[str | Path] = [stage.entrypoint, "run", "--", stage.application or "/bin/true"]
    return stage.spawner.run(argv, stage.environment(stage.target(database), folder))


def _files(stage: Stage, scale: Scale) -> list[Section]:
    """Apply each number of files, then start with them; return a section for the starts and one for applying."""
    contestants = []
    databases = []
    folders = []
    applied: dict[str, list[float]] = {OURS: []}
    peer = next((peer for peer in stage.peers.present if peer.name == PEER), None)
    missing = [] if peer else [f"{PEER}: not installed (make bench-peers)"]
    try:
        for size in scale.sizes:
            files = migrations.small(size)
            name = f"growth_{size}"
            databases.append(name)
            stage.server.create_database(name)
            folder = stage.folder(files)
            folders.append(folder)
            applied[OURS].append(stage.migrate(stage.target(name), folder).wall)
            contestants.append(
                Contestant(f"{OURS} {size}", lambda name=name, folder=folder: _start(stage, name, folder))  # type: ignore[misc]
            )
            if peer is not None:
                theirs = stage.empty_folder()
                folders.append(theirs)
                peer.write(theirs, files)
                databases.append(f"growth_{size}_peer")
                stage.server.create_database(databases[-1])
                command = peer.command(theirs, stage.target(databases[-1]))
                try:
                    wall = stage.spawner.run(command.argv, command.env, limit=scale.limit).wall
                except BenchmarkError as error:
                    missing.append(f"{PEER} with {size:,} files: {error}")
                else:
                    applied.setdefault(PEER, []).append(wall)
                    contestants.append(
                        Contestant(
                            f"{PEER} {size}",
                            lambda command=command: stage.spawner.run(command.argv, command.env),  # type: ignore[misc]
                            peer=True,
                        )
                    )
        done = in_turns(contestants, scale.runs)
    finally:
        for database in databases:
            stage.server.drop_database(database)
        for folder in folders:
            shutil.rmtree(folder)
    starts = Section("Growth: an up-to-date start, by the number of applied files", _columns("files"))
    for name in applied:
        _add(starts, name, scale.sizes, [done.summaries.get(f"{name} {size}") for size in scale.sizes])
    starts.missing += [*missing, *done.missing]
    applying = Section("Growth: applying one-line files, by their number", ("", "files", "wall", "exponent"))
    for name, walls in applied.items():
        exponents = slopes(scale.sizes[: len(walls)], walls)
        for size, wall, power in zip(scale.sizes, walls, exponents, strict=False):
            applying.rows.append((name, f"{size:,}", seconds(wall), exponent(power)))
        applying.values[name] = {"sizes": scale.sizes, "wall": walls, "exponents": exponents}
        _judge(applying, name, "wall time", exponents)
    applying.notes.append("One run of each.")
    return [starts, applying]


def _rows(stage: Stage, scale: Scale) -> Section:
    folder = stage.folder(migrations.small(FILES))
    contestants = []
    databases = []
    try:
        for size in scale.sizes:
            name = f"growth_rows_{size}"
            databases.append(name)
            stage.server.create_database(name)
            stage.migrate(stage.target(name), folder)
            with stage.server.connect(name) as connection:
                connection.execute(_AHEAD, (FILES, size))
                connection.execute("ANALYZE schema_migrations")
            contestants.append(Contestant(f"{OURS} {size}", lambda name=name: _start(stage, name, folder)))  # type: ignore[misc]
        done = in_turns(contestants, scale.runs)
    finally:
        for database in databases:
            stage.server.drop_database(database)
    section = Section(
        f"Growth: a start with {FILES} files, by the number of rows in the migration history", _columns("rows")
    )
    _add(section, OURS, scale.sizes, [done.summaries.get(f"{OURS} {size}") for size in scale.sizes])
    return section


def _columns(what: str) -> tuple[str, ...]:
    return ("", what, "wall", "exponent", "CPU", "exponent", "peak", "exponent")


def _add(section: Section, name: str, sizes: Sequence[int], summaries: Sequence[Summary | None]) -> None:
    """Add a series, up to the first size that could not be measured."""
    found = [(size, summary) for size, summary in zip(sizes, summaries, strict=True) if summary is not None]
    measured = [size for size, _ in found]
    series = {
        "wall": [summary.start for _, summary in found],
        "CPU": [summary.cpu for _, summary in found],
        "peak": [float(summary.peak) for _, summary in found],
    }
    exponents = {what: slopes(measured, values) for what, values in series.items()}
    for index, size in enumerate(measured):
        row = [name, f"{size:,}"]
        for what, shown in (("wall", seconds), ("CPU", seconds), ("peak", mb)):
            row += [shown(series[what][index]), exponent(exponents[what][index])]
        section.rows.append(tuple(row))
    section.values[name] = {"sizes": measured, **series, "exponents": exponents}
    for what, powers in exponents.items():
        _judge(section, name, what, powers)


def _judge(section: Section, name: str, what: str, exponents: Sequence[float | None]) -> None:
    if worse_than_linear(exponents):
        section.notes.append(f"Worse than linear: {what} of {name}.")
