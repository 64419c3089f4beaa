"""Migrations on an empty database: what a tool adds to the server's own work."""

from __future__ import annotations

import re
import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.figures import median, ratio, slopes
from benchmarks.measure import BenchmarkError, Contestant, in_turns
from benchmarks.report import Section, exponent, mb, seconds, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from benchmarks.measure import Sample, Summary
    from benchmarks.peers.tools import Peer
    from benchmarks.stage import Stage
    from benchmarks.target import Target

    Command = Callable[[Target], Sample]

OURS = "entrypoint migrate"
AT_ONCE = "psql -1 -f (all in one transaction)"
ONE_BY_ONE = "psql -f (a transaction for each file)"


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    """The runs for cases with up to 300 files; the others run once."""
    small: tuple[int, ...]
    """Numbers of one-line files."""
    ordinary: int
    """The number of files with a hundred lines each."""
    bulk: int
    """The length of the one large file, in characters."""
    limit: float
    """The time limit for one run of a peer, in seconds."""


FULL = Scale(runs=3, small=(30, 300, 3_000), ordinary=300, bulk=200_000_000, limit=30)
QUICK = Scale(runs=1, small=(3, 30), ordinary=3, bulk=2_000_000, limit=60)

# Up to this many files, each contestant runs more than once, and the server's log shows where the time went.
_OFTEN = 300
# Seconds. A contestant that takes longer runs once, and is not run again for the server's log.
_SELDOM = 3.0

_LINE = re.compile(
    r"^\d{4}-\d\d-\d\d .*?LOG: {2}duration: ([\d.]+) ms {2}(statement|parse|bind|execute)?", re.MULTILINE
)
# Marks the files' own statements: no migration history has a table of this name.
_FILE = re.compile(r"\b(?:small|orders)_\d")


class Case(NamedTuple):
    """Migrations to apply."""

    title: str
    files: dict[str, str]
    often: bool
    """Whether it is fast enough to run several times."""


class ServerTime(NamedTuple):
    """Where a run's time went, according to the server's log."""

    files: float
    """Seconds in the migrations' statements."""
    others: float
    """Seconds in all other statements."""
    messages: int
    """The number of statements; each is a round trip."""
    wall: float


def measure(stage: Stage, scale: Scale) -> Iterator[Section]:
    """Measure whole processes, each on an empty database."""
    walls: dict[str, list[float]] = {}
    for count in scale.small:
        case = Case(f"{count:,} one-line migrations", migrations.small(count), count <= _OFTEN)
        section, summaries = _case(stage, scale, case)
        yield section
        for name, summary in summaries.items():
            walls.setdefault(name, []).append(summary.wall)
    lines = migrations.ordinary(scale.ordinary)
    title = f"{scale.ordinary:,} migrations of {migrations.LINES} lines each ({_size(lines) / 1e6:.1f} MB)"
    yield _case(stage, scale, Case(title, lines, scale.ordinary <= _OFTEN))[0]
    bulk = {"001_bulk.sql": migrations.bulk(scale.bulk)}
    title = f"one migration of {_size(bulk) / 1e6:.0f} MB, in statements of 1,000 characters"
    yield _case(stage, scale, Case(title, bulk, often=False))[0]
    yield _growth(scale.small, walls)


def _size(files: Mapping[str, str]) -> int:
    return sum(map(len, files.values()))


def _growth(counts: tuple[int, ...], walls: dict[str, list[float]]) -> Section:
    """Compare the cases with small files."""
    columns = ("", *(column for count in counts for column in (f"{count:,} files", "exponent")))
    section = Section("Pending: how the time grows with the number of migrations", columns)
    for name, values in walls.items():
        if len(values) == len(counts):
            exponents = slopes(counts, values)
            cells = [cell for pair in zip(map(seconds, values), map(exponent, exponents), strict=True) for cell in pair]
            section.rows.append((name, *cells))
            section.values[name] = {"files": counts, "wall": values, "exponents": exponents}
    section.notes.append("Exponent: k in time ~ files^k, between one column and the previous one; 1 is linear.")
    return section


def _case(stage: Stage, scale: Scale, case: Case) -> tuple[Section, dict[str, Summary]]:
    commands, folders, missing = _commands(stage, scale, case)
    cpu: dict[str, list[float]] = {name: [] for name in commands}

    def contestant(name: str) -> Contestant:
        def run() -> Sample:
            with stage.database() as target:
                before = stage.server_cpu()
                sample = commands[name](target)
                cpu[name].append(stage.server_cpu() - before)
                return sample

        return Contestant(name, run, peer=name != OURS)

    runs = scale.runs if case.often else 1
    done = in_turns([contestant(name) for name in commands], runs, warm_up=False, seldom_above=_SELDOM)
    quick = [name for name, summary in done.summaries.items() if summary.wall < _SELDOM or name == OURS]
    accounts = {name: _account(stage, commands[name]) for name in quick} if case.often else {}
    for folder in folders:
        shutil.rmtree(folder)
    missing += done.missing

    files = len(case.files)
    section = Section(
        f"Pending: {case.title}, on an empty database",
        (
            "",
            "runs",
            "wall",
            f"{OURS} is",
            "each file",
            "CPU",
            "server's CPU",
            "beside the server",
            "peak",
            "round trips each",
        ),
        missing=missing,
    )
    ours = done.summaries[OURS]
    for name, summary in sorted(done.summaries.items(), key=lambda item: item[1].wall):
        server = median(cpu[name])
        account = accounts.get(name)
        walls = ratio(ours.wall, summary.wall)
        section.rows.append(
            (
                name,
                str(len(summary.samples)),
                seconds(summary.wall),
                times(walls),
                seconds(summary.wall / files),
                seconds(summary.cpu),
                seconds(server),
                seconds(max(0.0, summary.wall - server)),
                mb(summary.peak),
                "" if account is None else f"{account.messages / files:.1f}",
            )
        )
        section.values[name] = {
            **summary.values(),
            "server_cpu": server,
            "ours_of_it": {"wall": walls, "cpu": ratio(ours.cpu, summary.cpu)},
            "server": None if account is None else account._asdict(),
        }
    for name, why in done.too_slow.items():
        section.rows.append((name, "1", str(why), *[""] * 7))
        section.values[name] = {"more_than": why.limit}
    section.notes += [
        f"Medians of up to {runs} runs that took turns." if runs > 1 else "One run of each, in turns.",
        "CPU: of the process and its children. Beside the server: wall time minus the CPU time of the server's",
        "sessions.",
        "fsync is off, so a COMMIT is cheap.",
    ]
    if accounts:
        section.notes.append("Round trips: the statements that the server logged in one more run.")
    return section, done.summaries


def _commands(stage: Stage, scale: Scale, case: Case) -> tuple[dict[str, Command], list[Path], list[str]]:
    """Return what to run for each contestant, the folders created for it, and what is missing."""
    folder = stage.folder(case.files)
    scripts = stage.empty_folder()
    folders = [folder, scripts]
    missing = stage.peers.missing
    commands: dict[str, Command] = {OURS: lambda target: stage.migrate(target, folder)}
    psql = stage.psql
    if psql is None:
        missing.append("psql: not installed with the server")
    else:
        at_once, one_by_one = scripts / "at_once.sql", scripts / "one_by_one.sql"
        at_once.write_text("".join(case.files.values()))
        quiet = (psql, "-X", "-q", "-v", "ON_ERROR_STOP=1")
        commands[AT_ONCE] = lambda target: stage.spawner.run(
            [*quiet, "-1", "-f", at_once, target.url], {}, limit=scale.limit
        )
        if len(case.files) > 1:
            one_by_one.write_text("".join(f"BEGIN;\n{text}COMMIT;\n" for text in case.files.values()))
            commands[ONE_BY_ONE] = lambda target: stage.spawner.run(
                [*quiet, "-f", one_by_one, target.url], {}, limit=scale.limit
            )
    for peer in stage.peers.present:
        theirs = stage.empty_folder()
        folders.append(theirs)
        peer.write(theirs, case.files)

        def run(target: Target, *, peer: Peer = peer, theirs: Path = theirs) -> Sample:
            command = peer.command(theirs, target)
            return stage.spawner.run(command.argv, command.env, limit=scale.limit)

        commands[peer.name] = run
    return commands, folders, missing


def _account(stage: Stage, command: Command) -> ServerTime | None:
    """Run `command` on a database whose sessions log every statement with its duration; add these up."""
    mark = stage.server.log_size()
    with stage.database(log_min_duration_statement=0) as target:
        try:
            wall = command(target).wall
        except BenchmarkError:
            return None  # logging made it too slow
        time.sleep(0.3)  # Wait for the server's last lines.
        log = stage.server.log_text(mark)
    found = list(_LINE.finditer(log))
    total = {True: 0.0, False: 0.0}
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(log)
        total[_FILE.search(log, match.end(), end) is not None] += float(match[1]) / 1000
    # What is logged as parse, bind and execute is one message.
    messages = sum(match[2] not in {"parse", "bind"} for match in found)
    return ServerTime(files=total[True], others=total[False], messages=messages, wall=wall)
