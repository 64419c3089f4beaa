"""One replica of the demonstration: a separate process that will answer over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

HOST = "127.0.0.1"


class ReplicaError(Exception):
    """A replica did not do what it should; the message says which one, and what it did instead."""


class Answer(NamedTuple):
    """The application's answer, with the fields of its JSON."""

    replica: str | None
    pid: int
    outcome: str | None
    schema_version: int | None
    error: str | None
    companies: int
    devices: int
    names: list[str]


def free_ports(count: int) -> list[int]:
    """Return unused ports. All are kept open until the last is found, so that no two are the same."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


class Replica:
    """A process, its output line by line, and its answer. As a context manager, it ends the process."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        port: int,
        environ: Mapping[str, str],
        cwd: Path,
        show: Callable[[str], None],
    ) -> None:
        """Start `argv`, which will answer on `port`, and return at once. `show` receives its lines."""
        self.name = name
        self.answer: Answer | None = None
        self.answered_after = 0.0
        """Seconds from the start of the process to the end of its first answer."""
        self._port = port
        self._show = show
        self._rest = b""
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            argv,
            env={**environ, "REPLICA": name, "PORT": str(port)},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C would go to all processes at the terminal. The demonstration handles it and ends its replicas.
            start_new_session=True,
        )
        if self._process.stdout is None:  # cannot happen: it is a pipe
            raise AssertionError
        self._output = self._process.stdout
        # One thread reads from all replicas in turn, so no read may block.
        os.set_blocking(self._output.fileno(), False)

    def __enter__(self) -> Self:
        """Return the replica, which has already been started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the process if it is still running."""
        self._process.kill()
        self._process.wait()
        self._output.close()

    @property
    def pid(self) -> int:
        """The process id that the replica was started with."""
        return self._process.pid

    def pump(self) -> None:
        """Show what the process has written since the last call."""
        while True:
            try:
                chunk = os.read(self._output.fileno(), 65536)
            except BlockingIOError:
                return
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if not chunk and self._rest:
                lines, self._rest = [self._rest], b""
            for line in lines:
                self._show(line.decode(errors="replace"))
            if not chunk:
                return

    def ask(self) -> None:
        """Try once to get the page. It is not an error if nothing listens yet."""
        code = self._process.poll()
        if code is not None:
            self.pump()
            msg = f"{self.name} ended with {code} before it answered"
            raise ReplicaError(msg)
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except ConnectionError:
            return
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            msg = f"{self.name} answered with {response.status}: {body}"
            raise ReplicaError(msg)
        self.answered_after = time.monotonic() - self.started
        self.answer = Answer(**json.loads(body))

    def stop(self, seconds: float = 5) -> int:
        """Send SIGTERM, as a container runtime does; return the exit code, negative for a signal."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            msg = f"{self.name} was still there {seconds:g} s after SIGTERM"
            raise ReplicaError(msg) from None
        self.pump()
        return code


def await_answers(replicas: Sequence[Replica], seconds: float = 30) -> list[Answer]:
    """Show the replicas' output until each has answered; return the answers in the same order."""
    deadline = time.monotonic() + seconds
    while waiting := [replica for replica in replicas if replica.answer is None]:
        if time.monotonic() > deadline:
            msg = f"{' and '.join(replica.name for replica in waiting)} did not answer within {seconds:g} s"
            raise ReplicaError(msg)
        for replica in replicas:
            replica.pump()
        for replica in waiting:
            replica.ask()
        time.sleep(0.005)
    for replica in replicas:
        replica.pump()
    return [replica.answer for replica in replicas if replica.answer is not None]
