"""Starts the program quickly: each start is a clone of one process that has already imported it.

Starting the interpreter and importing modules take three quarters of the time of a start, and tests start the program
thousands of times. So a quick run of the whole suite clones it, if a test is about what the program does and not about
how it was started. A clone is still a separate process and our child, with its own pid, session, directory, arguments,
environment and output. It cannot show what the kernel knows about an exec (`/proc/PID/cmdline` and `environ`, the most
memory used), what Python reads from the environment when it starts, and imports that fail or come too late. Tests of
these are marked `cold`. In CI, and if a test file is named, all tests start the program itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PROGRAM = Path(__file__).parent / "programs" / "warm.py"
_ROOT = Path(__file__).parents[2]
# Variables that the interpreter, the loader or a library only reads when the process starts.
_READ_AT_THE_START = (
    *(b"PYTHON", b"LD_", b"LC_", b"LANG", b"TZ"),
    *(b"SSL_", b"OPENSSL_", b"MALLOC_", b"GLIBC_", b"PSYCOPG"),
)
_LONGEST = 100_000


class Clone:
    """A cloned process, with those parts of `subprocess.Popen` that `kit.processes.Run` needs."""

    def __init__(self, pid: int) -> None:
        """Take the pid, which must be that of a child of ours."""
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, -n after signal n; None while it runs."""
        with self._lock:
            if self.returncode is None:
                pid, code = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(code)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code as `poll` does. Raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(None if timeout is None else timeout * 1000)
            finally:
                os.close(descriptor)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("entrypoint", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)


class Warm:
    """The process that is cloned. It ends when it is closed, or when we end."""

    def __init__(self) -> None:
        """Start it. It imports the program in the background."""
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, _PROGRAM, str(theirs.fileno())],
                env={"PATH": os.environ.get("PATH", os.defpath)},
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait(10)

    def start(
        self,
        words: Sequence[str | bytes | Path],
        environment: Mapping[bytes, bytes],
        directory: Path,
        output: Sequence[int],
    ) -> Clone | None:
        """Start the program; return None if it must be started without cloning. `output`: stdout and stderr."""
        if any(name.startswith(_READ_AT_THE_START) or not name for name in environment):
            return None
        start = {
            "directory": str(directory),
            "arguments": _hex(os.fsencode(word) for word in words),
            "environment": _hex(name + b"=" + value for name, value in environment.items()),
        }
        message = json.dumps(start).encode()
        if len(message) > _LONGEST:
            return None
        with self._lock:
            socket.send_fds(self._socket, [message], output)
            answer = self._socket.recv(1000)
        if answer == b"no":
            return None
        assert answer.isdigit(), f"the clone did not begin: {answer.decode()}"
        return Clone(int(answer))


def _hex(words: Iterable[bytes]) -> list[str]:
    return [word.hex() for word in words]
