"""What every benchmark needs: an installation as an image has it, a server, databases, a place for files."""

from __future__ import annotations

import compileall
import contextlib
import itertools
import os
import shutil
import tempfile
import time
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Spawner
from demo.postgres import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from benchmarks.measure import Sample

ROOT = Path(__file__).parents[1]
PATH = "/usr/local/bin:/usr/bin:/bin"

# What `pip install pg-entrypoint` brings along; typing_extensions on Python 3.12 and older.
DEPENDENCIES = (
    *("psycopg", "psycopg-binary", "tenacity", "python-json-logger", "pgparse", "typing_extensions"),
    *("rich", "markdown-it-py", "mdurl", "pygments"),
)

COMMAND = """\
#!{python}
import sys
from entrypoint.__main__ import main
if __name__ == '__main__':
    sys.exit(main())
"""


class Stage:
    """Made once for a run of the benchmarks; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        """Start the server and install the program."""
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        try:
            self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
            self.server = self._stack.enter_context(Server())
            self.spawner = self._stack.enter_context(Spawner(self.directory))
            self.python = self._install()
        except BaseException:
            self._stack.close()
            raise
        self.entrypoint = self.python.with_name("entrypoint")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server and remove all files."""
        self._stack.close()

    @property
    def psql(self) -> Path | None:
        """Return the program itself, if it is there.

        The one that belongs to the server: on Debian, `psql` in the PATH is a Perl script that looks for it.
        """
        found = self.server.bin / "psql"
        return found if found.exists() else None

    def server_cpu(self) -> float:
        """Return the seconds of user and system time of all sessions that have ended so far.

        The postmaster waits for its children, so the kernel adds theirs up in its entry (proc(5): cutime, cstime).
        """
        time.sleep(0.2)  # A session ends a moment after its client.
        stat = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def database(self, **settings: str | int) -> Iterator[str]:
        """Make an empty database for a while, with `settings` for its sessions; return its URL."""
        name = f"benchmark_{next(self._numbers)}"
        self.server.create_database(name)
        try:
            with self.server.connect() as connection:
                for setting, value in settings.items():
                    connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'".encode())
            yield self.server.url(name)
        finally:
            self.server.drop_database(name)

    def folder(self, files: Mapping[str, str]) -> Path:
        """Write migrations into a directory of their own."""
        path = self.directory / f"migrations-{next(self._numbers)}"
        path.mkdir()
        for name, text in files.items():
            (path / name).write_text(text)
        return path

    def environment(self, url: str, migrations: Path, **more: str) -> dict[str, str]:
        """Return the environment of a container with this program in it."""
        return {"PATH": PATH, "DATABASE_URL": url, "MIGRATIONS_DIR": str(migrations), **more}

    def migrate(self, url: str, migrations: Path) -> Sample:
        """Run `entrypoint migrate`."""
        return self.spawner.run([self.entrypoint, "migrate"], self.environment(url, migrations))

    def _install(self) -> Path:
        """Copy the program and what it needs into a virtual environment of their own; return its Python.

        The one that we run in is a developer's: an editable installation and setuptools put files into it that
        every start of Python reads, which costs several milliseconds that no image has.
        """
        home = self.directory / "venv"
        venv.EnvBuilder(symlinks=True, with_pip=False).create(home)
        python = home / "bin" / "python"
        site_packages = next(home.glob("lib/python*/site-packages"))
        for name in DEPENDENCIES:
            with contextlib.suppress(PackageNotFoundError):
                found = distribution(name)
                for file in found.files or ():
                    if ".." not in file.parts and "__pycache__" not in file.parts:
                        target = site_packages / file
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(str(found.locate_file(file)), target)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "entrypoint", site_packages / "entrypoint", ignore=ignored)
        compileall.compile_dir(site_packages, quiet=2)
        command = python.with_name("entrypoint")
        command.write_text(COMMAND.format(python=python))
        command.chmod(0o755)
        return python
