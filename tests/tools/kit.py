"""A tool at work in its own folder: what all of them have in common."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Step(NamedTuple):
    """One migration, for any tool."""

    name: str
    up: str
    down: str
    one: bool = False
    """It must reach the server as one statement although it has semicolons: a function, for example."""
    alone: bool = False
    """It cannot run in a transaction."""


class ToolError(AssertionError):
    """A tool ended with an error; the message is its output."""


class Tool(ABC):
    """A migration tool, installed in `home`, with its migrations in `project`."""

    name: ClassVar[str]
    """As `import --from` and `origin` spell it."""
    quick: ClassVar[bool] = True
    """It installs in seconds, so CI has it as well."""
    layout: ClassVar[str] = ""
    """How its files are laid out, if that differs from its other versions."""
    package: ClassVar[str]
    """The name under which install.py has its version."""
    table: ClassVar[str]
    """Where it keeps its history."""
    shares_our_name: ClassVar[bool] = False
    """Its table is called `schema_migrations`, in the same schema as the application's tables."""
    goes_back: ClassVar[bool] = True
    """It has down migrations."""
    can_be_alone: ClassVar[bool] = True
    """It can run a file outside a transaction."""

    def __init__(self, home: Path, project: Path) -> None:
        self.home = home
        self.project = project
        project.mkdir(parents=True, exist_ok=True)
        self._added = 0

    @property
    @abstractmethod
    def program(self) -> Path:
        """Return the file that must exist if it is installed."""

    @property
    def directory(self) -> Path:
        """Return its migrations' directory, which `import` is given."""
        return self.project / "migrations"

    def missing(self) -> str | None:
        """Return why it cannot be run here, or None."""
        return None if self.program.exists() else f"{self.name} is not installed (make tools)"

    def add(self, step: Step) -> str:
        """Let the tool create a migration if it can, fill it in, and return the version it will record."""
        self._added += 1
        return self._add(step, self._added)

    @abstractmethod
    def _add(self, step: Step, number: int) -> str:
        """Create the migration with this number and return its version."""

    def path(self, version: str) -> Path:
        """Return the file with a version's up migration."""
        return only([path for path in self.directory.glob("*") if path.is_file() and self._is(path, version)])

    def _is(self, path: Path, version: str) -> bool:
        return path.name.partition("_")[0] == version

    def rewrite(self, version: str, up: str, down: str = "") -> None:
        """Replace a migration's text."""
        self.path(version).write_text(self.text(Step("", up, down)))

    def text(self, step: Step) -> str:
        """Return the text of a migration's file."""
        return step.up

    @contextlib.contextmanager
    def without(self, *versions: str) -> Iterator[None]:
        """Hide some migrations for a while."""
        hidden = [(path, path.read_bytes()) for path in map(self.path, versions)]
        for path, _ in hidden:
            path.unlink()
        try:
            yield
        finally:
            for path, content in hidden:
                path.write_bytes(content)

    def take(self, directory: Path) -> None:
        """Take over migrations that somebody else has written."""
        shutil.copytree(directory, self.directory)

    @abstractmethod
    def up(self, url: str) -> str:
        """Apply everything pending; return what the tool printed."""

    def down(self, url: str) -> str:
        """Undo the newest one."""
        raise NotImplementedError(f"{self.name} has no way back ({url})")

    def run(self, *argv: str | Path, **env: str) -> str:
        """Run a program in the project, which must succeed, and return what it printed."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.project), "LANG": "C.UTF-8", "NO_COLOR": "1", **env}
        done = subprocess.run(
            argv,
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=100,
        )
        if done.returncode != 0:
            command = " ".join(map(str, argv))
            raise ToolError(f"{command} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout


def only(paths: Sequence[Path]) -> Path:
    """Return the only path that a tool has created."""
    assert len(paths) == 1, f"one was expected: {paths}"
    return paths[0]


def binary(packages: Path, pattern: str) -> Path:
    """Return a program that npm has installed in a package for this kind of machine."""
    return next(iter(sorted(packages.glob(pattern))), packages / "not-installed")


def moment(number: int) -> str:
    """Return a timestamp for a migration: files created within one second would have the same."""
    return f"2024010100{number:02d}00"


def as_scheme(url: str, scheme: str, query: str = "sslmode=disable") -> str:
    """Return an address with another scheme, and without TLS, which some of the tools would otherwise insist on."""
    return urlunsplit(urlsplit(url)._replace(scheme=scheme, query=query))
