"""Many migrations on an empty database: what is added to the server's own work."""

from __future__ import annotations

import re
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.measure import Contestant, in_turns
from benchmarks.report import Section, mb, ms, ratio

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Sample
    from benchmarks.stage import Stage

RUNS = 3
FILES = 300

OURS = "entrypoint migrate"
AT_ONCE = "psql -1 -f (all in one transaction)"
ONE_BY_ONE = "psql -f (a transaction for each file)"

_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d .*?LOG: {2}duration: ([\d.]+) ms {2}(?:statement: )?", re.MULTILINE)
# In the file itself: no statement of ours names such a table.
_FILE = re.compile(r"\borders_\d")


class ServerTime(NamedTuple):
    """Where a run's time went, by the server's own account."""

    files: float
    """Seconds in the migrations' statements."""
    ours: float
    """Seconds in all other statements."""
    messages: int
    """How many queries came: each is a round trip."""
    wall: float


def measure(stage: Stage, runs: int) -> Section:
    """Measure whole processes, each on an empty database; and once more each, with the server's account of it."""
    files = migrations.ordinary(FILES)
    folder = stage.folder(files)
    psql = stage.psql
    commands: dict[str, Callable[[str], Sample]] = {OURS: lambda url: stage.migrate(url, folder)}
    missing = []
    if psql is None:
        missing.append("psql: not among the server's programs")
    else:
        at_once, one_by_one = _scripts(folder)
        quiet = (psql, "-X", "-q", "-v", "ON_ERROR_STOP=1")
        commands[AT_ONCE] = lambda url: stage.spawner.run([*quiet, "-1", "-f", at_once, url], {})
        commands[ONE_BY_ONE] = lambda url: stage.spawner.run([*quiet, "-f", one_by_one, url], {})

    server_cpu: dict[str, list[float]] = {name: [] for name in commands}

    def contestant(name: str) -> Contestant:
        def run() -> Sample:
            with stage.database() as url:
                before = stage.server_cpu()
                sample = commands[name](url)
                server_cpu[name].append(stage.server_cpu() - before)
                return sample

        return Contestant(name, run)

    accounts = {name: _account(stage, command) for name, command in commands.items()}  # and warm up
    summaries = in_turns([contestant(name) for name in commands], runs, warm_up=False)

    size = sum(map(len, files.values()))
    section = Section(
        f"Pending: {FILES} migrations of {migrations.LINES} lines ({size / 1e6:.1f} MB) on an empty database "
        f"(medians of {runs} runs in turns)",
        ("", "wall", "for each", "overhead for each", "CPU", "server's CPU", "peak", "round trips for each"),
        missing=missing,
        values={name: {**summary._asdict(), "server": accounts[name]._asdict()} for name, summary in summaries.items()},
    )
    cpu = {name: summary.cpu + statistics.median(server_cpu[name]) for name, summary in summaries.items()}
    for name, summary in summaries.items():
        account = accounts[name]
        overhead = summary.wall * (1 - account.files / account.wall)
        section.rows.append(
            (
                name,
                ms(summary.wall),
                ms(summary.wall / FILES, 2),
                ms(overhead / FILES, 2),
                ms(summary.cpu),
                ms(cpu[name] - summary.cpu),
                mb(summary.peak),
                f"{account.messages / FILES:.1f}",
            )
        )
    section.notes += [
        "overhead: all but what the server spent in the files' own statements. Its share is taken from one more run",
        "of each, with log_min_duration_statement = 0. No fsync here, so a COMMIT is cheap.",
        *_comparison("wall", {name: summary.wall for name, summary in summaries.items()}),
        *_comparison("CPU, both sides'", cpu),
        *(
            f"server's account of {name}: {ms(account.files)} in files, {ms(account.ours)} in other statements, "
            f"of {ms(account.wall)} (it logged meanwhile)"
            for name, account in accounts.items()
        ),
    ]
    return section


def _scripts(folder: Path) -> tuple[Path, Path]:
    """Return two scripts for psql: all files one after another; and each between BEGIN and COMMIT."""
    paths = sorted(folder.glob("*.sql"))
    beside = folder.parent
    at_once = beside / "at_once.sql"
    at_once.write_text("".join(path.read_text() for path in paths))
    one_by_one = beside / "one_by_one.sql"
    one_by_one.write_text("".join(f"BEGIN;\n{path.read_text()}COMMIT;\n" for path in paths))
    return at_once, one_by_one


def _account(stage: Stage, command: Callable[[str], Sample]) -> ServerTime:
    """Run `command` on a database whose sessions log every statement with its duration, and add these up."""
    mark = stage.server.log_size()
    with stage.database(log_min_duration_statement=0) as url:
        wall = command(url).wall
        time.sleep(0.3)  # The server's last lines.
        log = stage.server.log_text(mark)
    found = list(_PREFIX.finditer(log))
    total = {True: 0.0, False: 0.0}
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(log)
        total[_FILE.search(log, match.end(), end) is not None] += float(match[1]) / 1000
    return ServerTime(files=total[True], ours=total[False], messages=len(found), wall=wall)


def _comparison(what: str, seconds: dict[str, float]) -> list[str]:
    ours = seconds[OURS]
    return [
        f"{what}: {OURS} takes {ratio(ours, theirs)} of {name}, {(ours - theirs) / FILES * 1000:+.2f} ms for each"
        for name, theirs in seconds.items()
        if name != OURS
    ]
