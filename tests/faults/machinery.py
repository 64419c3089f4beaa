"""What the faults need from the machine: a server to break, a small disk to fill, a silent name server, a clock."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from demo.postgres import HOST, Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from kit.databases import Database

HERE = Path(__file__).parent
NAME = "database.faults.test"
"""The host name that the name server knows."""

MEGABYTE = 1 << 20
# An empty database takes 8 MB, and the migrations of a cell less than one.
_DISK = 24 * MEGABYTE
_ADDRESS = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04" + socket.inet_aton(HOST)
_TYPE_A = b"\x00\x01"

SETTINGS: dict[str, str | int] = {
    "max_connections": 60,
    # A standby that never comes: commits with synchronous_commit = on wait for it, and no others.
    "synchronous_standby_names": "nobody",
    "synchronous_commit": "local",
    # For the history: when each transaction was committed.
    "track_commit_timestamp": "on",
}


class UnavailableError(Exception):
    """The machine lacks a privilege or a program."""


class Disk:
    """A tablespace on a separate file system, small enough to fill quickly."""

    TABLESPACE = "small"

    def __init__(self, server: Server) -> None:
        """Mount it below the server's directory and tell the server."""
        self._path = server.directory / "small"
        self._path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(self._path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            self._path.rmdir()
            reason = "no permission to mount a small file system (tmpfs)"
            raise UnavailableError(reason)
        # Unmounts it when our end of the pipe is closed, even if we are killed.
        self._undertaker = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; umount -l "$0"', str(self._path)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        space = self._path / "space"
        space.mkdir(mode=0o700)
        owner = server.data.stat()
        shutil.chown(space, owner.st_uid, owner.st_gid)
        with server.connect() as connection:
            connection.execute(f"CREATE TABLESPACE {self.TABLESPACE} LOCATION '{space}'".encode())

    def fill(self) -> None:
        """Leave no room at all."""
        with contextlib.suppress(OSError), (self._path / "ballast").open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        """Make room again."""
        (self._path / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it, whoever is still using it."""
        self._undertaker.communicate(timeout=10)


class NameServer:
    """Answers for NAME with 127.0.0.1, once it is told to; it is reached from a separate mount namespace."""

    def __init__(self, directory: Path) -> None:
        """Listen on the port of name servers, at our own address."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(0.05)
        for number in range(2, 250):
            try:
                self._socket.bind((f"127.0.53.{number}", 53))
            except PermissionError as error:
                self._socket.close()
                reason = "no permission to be a name server (port 53)"
                raise UnavailableError(reason) from error
            except OSError:
                continue
            break
        self.asked = threading.Event()
        self._silent = threading.Event()
        self._closed = threading.Event()
        self._waiting: list[tuple[bytes, tuple[str, int]]] = []
        resolver = directory / "resolv.conf"
        resolver.write_text(f"nameserver {self._socket.getsockname()[0]}\noptions timeout:30 attempts:1\n")
        self.prefix = (
            *("unshare", "--mount", "sh", "-c"),
            f'mount --bind "{resolver}" /etc/resolv.conf && exec "$@"',
            "sh",
        )
        """Prefix a command with this to make it ask this name server."""
        if subprocess.run([*self.prefix, "true"], capture_output=True, check=False).returncode != 0:
            self._socket.close()
            reason = "no permission to make a mount namespace (unshare --mount)"
            raise UnavailableError(reason)
        self._thread = threading.Thread(target=self._serve, name="name server", daemon=True)
        self._thread.start()

    def be_silent(self) -> None:
        """Keep all questions waiting."""
        self.asked.clear()
        self._silent.set()

    def answer(self) -> None:
        """Answer, beginning with the questions that are waiting."""
        self._silent.clear()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                self._waiting.append(self._socket.recvfrom(512))
                self.asked.set()
            while self._waiting and not self._silent.is_set():
                question, sender = self._waiting.pop(0)
                with contextlib.suppress(OSError):
                    self._socket.sendto(_answer(question), sender)


def _answer(question: bytes) -> bytes:
    """Return 127.0.0.1 for an A question, and no address for any other."""
    end = question.index(b"\0", 12) + 5
    known = question[end - 4 : end - 2] == _TYPE_A
    header = question[:2] + b"\x81\x80" + question[4:6] + (b"\x00\x01" if known else b"\x00\x00") + bytes(4)
    return header + question[12:end] + (_ADDRESS if known else b"")


class Machinery:
    """All of it, created on first use; a context manager that leaves nothing behind."""

    def __init__(self, directory: Path, version: int | None = None) -> None:
        """Keep what has to be a file in `directory`."""
        self.directory = directory
        self.server = Server(version, settings=SETTINGS)
        self._stack = contextlib.ExitStack()
        self._disk: Disk | None = None
        self._names: NameServer | None = None
        self._clock: Path | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        self._stack.enter_context(self.server)
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    @property
    def disk(self) -> Disk:
        """Return the small disk."""
        if self._disk is None:
            self._disk = Disk(self.server)
            self._stack.callback(self._disk.close)
        return self._disk

    @property
    def names(self) -> NameServer:
        """Return the name server."""
        if self._names is None:
            self._names = NameServer(self.directory)
            self._stack.callback(self._names.close)
        return self._names

    @property
    def clock(self) -> Path:
        """Return the library that sets a process's clock."""
        if self._clock is None:
            compiler = shutil.which("cc")
            if compiler is None:
                reason = "no C compiler `cc` for tests/faults/clock.c"
                raise UnavailableError(reason)
            library = self.directory / "clock.so"
            options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
            subprocess.run([compiler, *options, "-o", library, HERE / "clock.c"], check=True, timeout=60)
            self._clock = library
        return self._clock

    def restore(self) -> None:
        """Repair what a cell has left behind, however it ended."""
        self.server.thaw()
        if not self.server.running:
            self.server.start()
        if self._disk is not None:
            self._disk.free()
        if self._names is not None:
            self._names.answer()


@contextlib.contextmanager
def commits_wait(database: Database) -> Iterator[None]:
    """Meanwhile, let every COMMIT, on any connection, wait for a standby that never comes."""

    def switch(statement: str, value: str) -> None:
        with database.connect() as connection:
            connection.execute(statement.encode())
            connection.execute("SELECT pg_reload_conf()")
        # A new backend has the value from the postmaster, which told all other backends before it started this one.
        deadline = time.monotonic() + 10
        while database.one("SHOW synchronous_commit") != value:
            if time.monotonic() > deadline:
                msg = f"synchronous_commit did not become {value}"
                raise AssertionError(msg)

    switch("ALTER SYSTEM SET synchronous_commit = 'on'", "on")
    try:
        yield
    finally:
        switch("ALTER SYSTEM RESET synchronous_commit", "local")


STANDBY_WAITERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"


def let_commits_go(database: Database) -> None:
    """End the wait for the standby: those commits then succeed, since they are on this server's own disk."""
    database.rows(f"SELECT pg_cancel_backend(pid) FROM ({STANDBY_WAITERS}) AS waiting")
