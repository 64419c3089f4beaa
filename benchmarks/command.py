"""Up-to-date starts of other tools: alone, and as MIGRATION_COMMAND, where they are not run."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import application, examples, migrations
from benchmarks.figures import ratio
from benchmarks.measure import BenchmarkError, Contestant, in_turns
from benchmarks.report import Section, seconds, times
from benchmarks.stage import PATH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Sample
    from benchmarks.stage import Stage


class Scale(NamedTuple):
    """How much of it."""

    runs: int


FULL = Scale(runs=21)
QUICK = Scale(runs=1)

OURS = "SQL files, no tool"
NOTHING = "the application alone"
# `migrate deploy` with the WebAssembly engine in its package; see tests/tools/files/prisma.config.mjs.
PRISMA = "prisma migrate deploy"
_PRISMA_FILES = examples.ROOT.parent / "tests" / "tools" / "files"
_PRISMA_MODULES = examples.TOOLS / "node" / "node_modules"
# Programs that take longer than this run only in every third round.
_SELDOM = 1.0


@dataclass(frozen=True)
class Tool:
    """A tool in its own folder, with a database that it has migrated."""

    name: str
    """What is run."""
    folder: Path
    env: dict[str, str]

    @property
    def argv(self) -> list[str]:
        """Return its command line, with the program's path."""
        program, *rest = shlex.split(self.env["MIGRATION_COMMAND"])
        found = str(self.folder / program) if "/" in program else shutil.which(program, path=self.env["PATH"])
        return [found or program, *rest]


def measure(stage: Stage, scale: Scale) -> list[Section]:
    """Let each tool migrate its own database, then measure all in turns."""
    made: list[str] = []
    try:
        return [_table(stage, scale, made)]
    finally:
        for name in made:
            stage.server.drop_database(name)


def _table(stage: Stage, scale: Scale, made: list[str]) -> Section:
    missing = []
    contestants = [Contestant(NOTHING, lambda: stage.spawner.run([stage.application or "/bin/true"], {"PATH": PATH}))]
    tools = []
    for name in examples.names():
        if not examples.programs(name):
            missing.append(f"examples/{name}: not installed (make tools)")
            continue
        tools.append(_example(stage, name, made))
    if (_PRISMA_MODULES / "prisma").is_dir() and shutil.which("node"):
        tools.append(_prisma(stage, made))
    else:
        missing.append(f"{PRISMA}: not installed (make tools)")
    for tool in tools:
        _start(stage, tool, "migrated")
        contestants.append(Contestant(tool.name, _alone(stage, tool)))
        contestants.append(Contestant(_ours(tool), _under_the_lock(stage, tool)))
    contestants.append(Contestant(OURS, _files(stage, made)))
    done = in_turns(contestants, scale.runs, seldom_above=_SELDOM)

    section = Section(
        "Up to date: other tools by themselves, and with MIGRATION_COMMAND",
        ("", "runs", "the tool itself", "`entrypoint run`", "ratio", "CPU, itself", "CPU, `entrypoint run`"),
        missing=missing,
    )
    for tool in sorted(tools, key=lambda tool: -done.summaries[tool.name].start):
        itself, ours = done.summaries[tool.name], done.summaries[_ours(tool)]
        part = ratio(ours.start, itself.start)
        row = (seconds(itself.start), seconds(ours.start), times(part), seconds(itself.cpu), seconds(ours.cpu))
        section.rows.append((tool.name, str(len(itself.samples)), *row))
        section.values[tool.name] = {"itself": itself.values(), "ours": ours.values(), "ours_of_it": part}
    for name in (OURS, NOTHING):
        summary = done.summaries[name]
        section.rows.append((name, str(len(summary.samples)), "", seconds(summary.start), "", "", seconds(summary.cpu)))
        section.values[name] = summary.values()
    section.notes += [
        "Medians of runs that took turns: the applications in examples/ with two applied migrations each, and as many",
        "SQL files; TCP without TLS. The tool's own time is to its own end, without the shell that would start",
        "the application. That of `entrypoint run` is to the application's first instruction; the tool is not run.",
    ]
    return section


def _ours(tool: Tool) -> str:
    return f"entrypoint run, {tool.name}"


def _alone(stage: Stage, tool: Tool) -> Callable[[], Sample]:
    return lambda: stage.spawner.run(tool.argv, tool.env, directory=tool.folder)


def _under_the_lock(stage: Stage, tool: Tool) -> Callable[[], Sample]:
    return lambda: _start(stage, tool, "up_to_date")


def _start(stage: Stage, tool: Tool, outcome: str) -> Sample:
    """Start the program with the tool as its command, and check that it did what is measured."""
    argv: list[str | Path] = [stage.entrypoint, "run", "--", stage.application or "/bin/true"]
    return _checked(stage, stage.spawner.run(argv, tool.env, directory=tool.folder), outcome)


def _checked(stage: Stage, sample: Sample, outcome: str) -> Sample:
    told = application.told(stage.spawner.output())
    if told is not None and told.outcome != outcome:
        raise BenchmarkError(f"{told.outcome} instead of {outcome}:\n{stage.spawner.output()}")
    return sample


def _database(stage: Stage, name: str, made: list[str]) -> str:
    database = "command_" + re.sub(r"\W", "_", name)
    stage.server.create_database(database)
    made.append(database)
    return database


def _example(stage: Stage, name: str, made: list[str]) -> Tool:
    """Prepare one of examples/."""
    folder = stage.directory / f"example-{name}"
    examples.copy(name, folder)
    image = examples.image(name)
    path = ":".join([*map(str, examples.programs(name)), PATH])
    url = stage.target(_database(stage, name, made)).url_as(examples.scheme(name))
    env = {**image.env, "PATH": path, "HOME": str(folder), "DATABASE_URL": url}
    return Tool(_short(image.env["MIGRATION_COMMAND"]), folder, env)


def _short(command: str) -> str:
    """Return the command as its users know it, without its folder and the shell around it."""
    inner = re.search(r"\S+ up(?=')", command)
    return inner[0] if inner else command.removeprefix("node_modules/.bin/")


def _prisma(stage: Stage, made: list[str]) -> Tool:
    """Prepare a folder for Prisma, with two migrations."""
    folder = stage.directory / "prisma"
    (folder / "prisma" / "migrations").mkdir(parents=True)
    shutil.copy(_PRISMA_FILES / "prisma.config.mjs", folder)
    shutil.copy(_PRISMA_FILES / "schema.prisma", folder / "prisma")
    (folder / "prisma" / "migrations" / "migration_lock.toml").write_text('provider = "postgresql"\n')
    for name, sql in migrations.small(2).items():
        step = folder / "prisma" / "migrations" / f"20240101000{name.removesuffix('.sql')}"
        step.mkdir()
        (step / "migration.sql").write_text(sql)
    (folder / "node_modules").symlink_to(_PRISMA_MODULES)
    path = ":".join([*map(str, examples.programs("node-knex")), PATH])
    env = {
        "PATH": path,
        "HOME": str(folder),
        "DATABASE_URL": stage.target(_database(stage, "prisma", made)).url,
        "MIGRATION_COMMAND": "node_modules/.bin/prisma migrate deploy",
        "MIGRATION_COMMAND_INPUTS": "prisma/migrations",
        # Prisma refuses its first run in a schema with tables but without its own.
        "MIGRATION_SCHEMA": "entrypoint",
        # Without these, it would download its native engines. Neither is started.
        "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
        "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
        "CHECKPOINT_DISABLE": "1",
        "PRISMA_HIDE_UPDATE_MESSAGE": "1",
    }
    return Tool(PRISMA, folder, env)


def _files(stage: Stage, made: list[str]) -> Callable[[], Sample]:
    """Return a start with as many SQL files."""
    target, folder = stage.target(_database(stage, "ours", made)), stage.folder(migrations.small(2))
    stage.migrate(target, folder)
    argv: list[str | Path] = [stage.entrypoint, "run", "--", stage.application or "/bin/true"]
    env = stage.environment(target, folder)
    return lambda: _checked(stage, stage.spawner.run(argv, env), "up_to_date")
