"""What every benchmark needs: an installation like an image's, a server, databases, a place for files."""

from __future__ import annotations

import compileall
import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import application
from benchmarks.measure import LIMIT, Spawner
from benchmarks.peers import HOME, Peers
from benchmarks.target import Target
from demo.postgres import PREFERRED_VERSIONS, Server, family, installations, workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from benchmarks.measure import Sample
    from demo.postgres import Installation

ROOT = Path(__file__).parents[1]
PATH = "/usr/local/bin:/usr/bin:/bin"
# Where `make folder` builds the self-contained folder.
FOLDER = ROOT / "build" / "folder"

# The dependencies of pg-entrypoint; typing_extensions only on Python 3.12 and older.
DEPENDENCIES = (
    *("psycopg", "psycopg-binary", "tenacity", "python-json-logger", "pgparse", "typing_extensions"),
    *("rich", "markdown-it-py", "mdurl", "pygments"),
)

# This user must use TLS and a password; the other user is trusted.
SCRAM_USER = "scram"
SCRAM_PASSWORD = "benchmark"  # noqa: S105 - of a server that lives for minutes
HBA = (f"hostssl all {SCRAM_USER} 127.0.0.1/32 scram-sha-256",)

SETTINGS: dict[str, str | int] = {
    # For 100 replicas, each with two connections at the first moment.
    "max_connections": 300,
    # When the last migration was committed, to the microsecond.
    "track_commit_timestamp": "on",
}

_TICKS = os.sysconf("SC_CLK_TCK")


class Stage:
    """Created once for a run of the benchmarks. A context manager that leaves nothing behind."""

    def __init__(self, *, version: int | None = None, peers: Path = HOME, folder: Path = FOLDER) -> None:
        """Start the server, of the given `version` or else of one with TLS, and install the program.

        `folder` is where the self-contained folder may be.
        """
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        try:
            self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
            self.server, self.tls = self._start(version)
            self.spawner = self._stack.enter_context(Spawner(self.directory))
            self.python = self._install()
        except BaseException:
            self._stack.close()
            raise
        self.entrypoint = self.python.with_name("entrypoint")
        self.application = application.build(self.directory)
        program = folder.absolute() / "entrypoint"
        self.packed: Path | None = program if program.exists() else None
        """The self-contained folder's program, if it has been built."""
        self.peers = Peers(peers.absolute(), self.psql)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server and remove all files."""
        self._stack.close()

    # The server

    def _start(self, version: int | None) -> tuple[Server, bool]:
        """Start a server; return it, and whether it has TLS."""
        chosen = version or best_version()
        settings: dict[str, str | int] = dict(SETTINGS)
        hba: tuple[str, ...] = ()
        certificate = _certificate() if chosen is not None and knows_tls(installations()[chosen]) else None
        if certificate is not None:
            settings |= {"ssl": "on", "ssl_cert_file": str(certificate[0]), "ssl_key_file": str(certificate[1])}
            hba = HBA
        server = self._stack.enter_context(Server(chosen, settings=settings, hba=hba))
        with server.connect() as connection:
            # A superuser, so that each of the two users can use what the other has created.
            connection.execute(f"CREATE ROLE {SCRAM_USER} SUPERUSER LOGIN PASSWORD '{SCRAM_PASSWORD}'".encode())
        return server, certificate is not None

    @property
    def postgresql(self) -> str:
        """Return the server's full version."""
        with self.server.connect() as connection:
            row = connection.execute("SHOW server_version").fetchone()
        return str(row[0]) if row else "?"

    @property
    def psql(self) -> Path | None:
        """Return the path of the real psql, if it is installed.

        It is the one next to the server: on Debian, `psql` in the PATH is a Perl script that looks for it.
        """
        found = self.server.bin / "psql"
        return found if found.exists() else None

    def server_cpu(self) -> float:
        """Return the seconds of user and system time of all sessions that have ended so far.

        The postmaster waits for its children, so the kernel adds up theirs in its entry (proc(5): cutime, cstime).
        """
        time.sleep(0.2)  # A session ends shortly after its client.
        return sum(_cpu_of(self.server.pid)[2:])

    def server_cpu_now(self) -> float:
        """Return the seconds of user and system time of the server and all its children, living and ended."""
        return cpu_of_family(self.server.pid)

    def target(self, name: str) -> Target:
        """Return how to reach a database over TCP, without TLS and without a password."""
        return Target(name, self.server.port)

    @contextlib.contextmanager
    def database(self, **settings: str | int) -> Iterator[Target]:
        """Create an empty database, with `settings` for its sessions; yield how to reach it, and drop it in the end."""
        name = f"benchmark_{next(self._numbers)}"
        self.server.create_database(name)
        try:
            with self.server.connect() as connection:
                for setting, value in settings.items():
                    connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'".encode())
            yield self.target(name)
        finally:
            self.server.drop_database(name)

    # Files and programs

    def empty_folder(self) -> Path:
        """Make a directory."""
        path = self.directory / f"migrations-{next(self._numbers)}"
        path.mkdir()
        return path

    def folder(self, files: Mapping[str, str]) -> Path:
        """Write migrations into a new directory."""
        path = self.empty_folder()
        for name, text in files.items():
            (path / name).write_text(text)
        return path

    def environment(self, target: Target, migrations: Path, **more: str) -> dict[str, str]:
        """Return the environment that a container with this program has."""
        return {"PATH": PATH, "DATABASE_URL": target.url, "MIGRATIONS_DIR": str(migrations), **more}

    def migrate(self, target: Target, migrations: Path, *, limit: float = LIMIT) -> Sample:
        """Run `entrypoint migrate`."""
        timeout = str(round(limit * 1000))
        environment = self.environment(target, migrations, MIGRATION_TIMEOUT_MS=timeout)
        return self.spawner.run([self.entrypoint, "migrate"], environment, limit=limit)

    def install(self, names: Iterable[str]) -> None:
        """Add packages to the program's installation: those of an extra."""
        site_packages = next(self.python.parents[1].glob("lib/python*/site-packages"))
        _copy(names, site_packages)
        compileall.compile_dir(site_packages, quiet=2)

    def _install(self) -> Path:
        """Copy the program and what it needs into a new virtual environment; return its Python.

        The environment that this runs in is a developer's. An editable installation and setuptools add files to it
        that every start of Python reads, which costs several milliseconds that no image has.
        """
        home = self.directory / "venv"
        venv.EnvBuilder(symlinks=True, with_pip=False).create(home)
        python = home / "bin" / "python"
        site_packages = next(home.glob("lib/python*/site-packages"))
        _copy(DEPENDENCIES, site_packages)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "entrypoint", site_packages / "entrypoint", ignore=ignored)
        compileall.compile_dir(site_packages, quiet=2)
        command = python.with_name("entrypoint")
        command.write_text((ROOT / "bin" / "entrypoint").read_text().replace("#!python", f"#!{python} -I", 1))
        command.chmod(0o755)
        # Put the modules of a start into one file, as in the image and the folder.
        subprocess.run([python, "-IB", ROOT / "packaging" / "bundle.py", home], check=True, stdout=subprocess.DEVNULL)
        return python


def _copy(names: Iterable[str], site_packages: Path) -> None:
    """Copy packages that are installed here, without their bytecode."""
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found = distribution(name)
            for file in found.files or ():
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    target = site_packages / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(str(found.locate_file(file)), target)


def knows_tls(found: Installation) -> bool:
    """Tell whether an installed PostgreSQL was built with TLS; the embedded one is not."""
    program = found.bin / "pg_config"
    if not program.exists():
        return False
    done = subprocess.run([program, "--configure"], capture_output=True, text=True, check=False)
    return "--with-openssl" in done.stdout or "--with-ssl=openssl" in done.stdout


def best_version() -> int | None:
    """Return the version to measure with: one with TLS if possible, so that one server does for all tables."""
    here = installations()
    return next((version for version in PREFERRED_VERSIONS if version in here and knows_tls(here[version])), None)


def _certificate() -> tuple[Path, Path] | None:
    """Make a self-signed certificate and its key; return both, or None without `openssl`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    work = workspace()
    directory = work.path / "tls"
    directory.mkdir(exist_ok=True)
    certificate, key = directory / "server.crt", directory / "server.key"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    key.chmod(0o600)
    for path in (directory, certificate, key):
        work.owner.take(path)
    return certificate, key


def cpu_of_family(pid: int) -> float:
    """Return the seconds of user and system time of a process and all its children, living and ended."""
    return sum(sum(_cpu_of(member)) for member in family(pid))


def _cpu_of(pid: int) -> tuple[float, float, float, float]:
    """Return user and system time of a process and its ended children, in seconds; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0, 0, 0
    user, system, children_user, children_system = (int(ticks) / _TICKS for ticks in stat[11:15])
    return user, system, children_user, children_system
