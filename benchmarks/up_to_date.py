"""A start with nothing to do, which is nearly every start of every container."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks import migrations
from benchmarks.figures import ratio
from benchmarks.measure import BenchmarkError, Contestant, in_turns
from benchmarks.peers.tools import NotPossibleError
from benchmarks.report import Section, mb, seconds, times
from benchmarks.stage import SCRAM_PASSWORD, SCRAM_USER

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Sample
    from benchmarks.peers.tools import Command
    from benchmarks.stage import Stage
    from benchmarks.target import Target


class Scale(NamedTuple):
    """How much of it."""

    runs: int
    """Runs over TCP without TLS; half as many for the other connections."""
    files: int


FULL = Scale(runs=21, files=30)
QUICK = Scale(runs=1, files=3)

OURS = "entrypoint run"
DISABLED = "AUTO_MIGRATE=false entrypoint run"
PACKED = "the folder's entrypoint run"
PACKED_DISABLED = "AUTO_MIGRATE=false the folder's entrypoint run"
PYTHON = "python -I -c pass"
PSYCOPG = "python -I: import psycopg; connect; select 1"
PSQL = "psql -X -c 'select 1'"
NOTHING = "the application alone"

_ASK = "import psycopg, sys; psycopg.connect(sys.argv[1]).execute('select 1').fetchone()"
# Programs that take longer than this run only in every third round.
_SELDOM = 1.0
# The kernel reports CPU time in small units; ratios of less than this mean nothing.
_LEAST_CPU = 0.002


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Measure with each kind of connection, all programs in turns."""
    files = migrations.small(scale.files)
    ours = stage.folder(files)
    with stage.database() as target:
        stage.migrate(target, ours)
        peers, failures = _migrated(stage, files)
        try:
            ways = {"TCP without TLS": target}
            if stage.tls:
                ways["TCP with TLS and SCRAM"] = target.over_tls(SCRAM_USER, SCRAM_PASSWORD)
            ways["a Unix socket"] = target.over_socket(stage.server.directory)
            sections: list[Section] = []
            for way, there in ways.items():
                runs = (scale.runs + 1) // 2 if sections else scale.runs
                section = _way(stage, scale._replace(runs=runs), way, there, ours, peers)
                section.missing += [*stage.peers.missing, *failures]
                if not sections and not stage.tls:
                    section.missing.append("TLS: no PostgreSQL with TLS is installed, or no `openssl`")
                sections.append(section)
        finally:
            for name in peers:
                stage.server.drop_database(_database_of(name))
    return sections


def _database_of(name: str) -> str:
    return "peer_" + name.replace(" ", "_").replace("-", "_")


def _migrated(stage: Stage, files: dict[str, str]) -> tuple[dict[str, Path], list[str]]:
    """Let each peer apply all files in its own database; return their folders, and what failed."""
    folders = {}
    failures = []
    for peer in stage.peers.present:
        folder = stage.empty_folder()
        peer.write(folder, files)
        name = _database_of(peer.name)
        stage.server.create_database(name)
        command = peer.command(folder, stage.target(name))
        try:
            stage.spawner.run(command.argv, command.env)
        except BenchmarkError as error:
            failures.append(f"{peer.name}: {error}")
            stage.server.drop_database(name)
        else:
            folders[peer.name] = folder
    return folders, failures


def _way(stage: Stage, scale: Scale, way: str, target: Target, folder: Path, peers: dict[str, Path]) -> Section:
    env = stage.environment(target, folder)
    missing = []

    def contestant(name: str, *argv: str | Path, **more: str) -> Contestant:
        def run() -> Sample:
            return stage.spawner.run(argv, {**env, **more})

        return Contestant(name, run)

    def rival(name: str, command: Command) -> Contestant:
        def run() -> Sample:
            return stage.spawner.run(command.argv, command.env)

        return Contestant(name, run, peer=True)

    application = stage.application or "/bin/true"
    contestants = [
        contestant(OURS, stage.entrypoint, "run", "--", application),
        contestant(DISABLED, stage.entrypoint, "run", "--", application, AUTO_MIGRATE="false"),
        contestant(PSYCOPG, stage.python, "-I", "-c", _ASK, target.url),
        contestant(PYTHON, stage.python, "-I", "-c", "pass"),
        contestant(NOTHING, application),
    ]
    if stage.psql is None:
        missing.append("psql: not installed with the server")
    else:
        contestants.append(contestant(PSQL, stage.psql, "-X", "-A", "-t", "-c", "select 1", target.url))
    if stage.packed is None:
        missing.append(f"{PACKED}: not built (make folder)")
    else:
        start = (stage.packed, "run", "--", application)
        contestants += [contestant(PACKED, *start), contestant(PACKED_DISABLED, *start, AUTO_MIGRATE="false")]
    for peer in stage.peers.present:
        if peer.name in peers:
            there = target.named(_database_of(peer.name))
            try:
                contestants.append(rival(peer.name, peer.command(peers[peer.name], there)))
            except NotPossibleError as error:
                missing.append(str(error))
    done = in_turns(contestants, scale.runs, seldom_above=_SELDOM)
    missing += [f"{name}: {why}" for name, why in done.failures.items()]  # too slow counts as missing here

    ours = done.summaries[OURS]
    section = Section(
        f"Up to date, over {way}: {scale.files} applied files, nothing pending",
        ("", "runs", "wall", f"{OURS} is", "CPU", f"{OURS} is", "peak"),
        missing=missing,
    )
    for name, summary in sorted(done.summaries.items(), key=lambda item: -item[1].start):
        walls = ratio(ours.start, summary.start)
        cpus = ratio(ours.cpu, summary.cpu) if summary.cpu > _LEAST_CPU else None
        row = (seconds(summary.start), times(walls), seconds(summary.cpu), times(cpus), mb(summary.peak))
        section.rows.append((name, str(len(summary.samples)), *row))
        section.values[name] = {
            **summary.values(),
            "start": summary.start,
            "ours_of_it": {"wall": walls, "cpu": cpus},
        }
    section.notes += [
        "Medians of runs that took turns. Wall: from before the start of the process to "
        + ("the application's first instruction;" if stage.application else "the end of the application `true`;"),
        "for tools that do not exec the application, to their own end, without the shell that would start it.",
        "CPU: user and system time of the process and its children, without the server's.",
        f"\"{OURS} is\": the time of {OURS!r} as a multiple of this line's. Peaks below 12 MB are the benchmark's own.",
    ]
    return section
