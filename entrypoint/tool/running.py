"""Run another migration tool to its end, for as long as the lock is ours, and pass on what it prints."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections import deque
from typing import NamedTuple

from entrypoint import logs
from entrypoint.backup.waiting import dying_with_us
from entrypoint.database import transactions
from entrypoint.database.answers import StatementError
from entrypoint.deadline import SLICE, Deadline, pause
from entrypoint.redaction import foreign

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from entrypoint.migration.lock.lease import Lease
    from entrypoint.policy import Address

_LONGEST_LINE = 8_192
_LAST_LINES = 20
# How often the row is looked at: an operator may have freed it.
_LOOK_EVERY = 1.0
_LOOK_STATEMENT = 4.0
_PATIENCE = 10.0
# After the tool's end, somebody else may hold its output open.
_LINGER = 0.3
# Between SIGTERM and SIGKILL.
_GRACE = 1.0


class Order(NamedTuple):
    """What is to be run, and how."""

    argv: tuple[str, ...]
    environ: dict[bytes, bytes]
    """The application's, as we were started with it."""
    address: Address
    """Where the database is, and which variable says so."""
    token: str
    pooled: bool
    terminal: bool


class Ended(NamedTuple):
    """How it ended."""

    exit_code: int | None
    signal: int | None
    seconds: float
    tail: tuple[str, ...]
    """The last lines that it printed, without secrets."""
    timed_out: bool
    cannot_start: str


class _Output:
    """What the tool prints: each line an event, the last ones kept. Bounded, whatever comes."""

    def __init__(self) -> None:
        self._rest = b""
        self._cut = False
        self.tail: deque[str] = deque(maxlen=_LAST_LINES)

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line)
        if len(self._rest) > _LONGEST_LINE:
            self._tell(self._rest[:_LONGEST_LINE])
            self._rest, self._cut = b"", True

    def end(self) -> None:
        if self._rest:
            self._tell(self._rest)

    def _tell(self, line: bytes) -> None:
        # What follows in a line that was too long is left out, to its end.
        cut, self._cut = self._cut, False
        text = foreign(_without_escapes(line.decode("utf-8", "replace")).rstrip())
        if text and not cut:
            self.tail.append(text)
            logs.event(logs.INFO, "command.output", text)


def _without_escapes(text: str) -> str:
    """Return a line without what moves a terminal's cursor or changes its colours."""
    if "\x1b" in text:
        import re

        text = re.sub(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])", "", text)
    return "".join(character for character in text if character == "\t" or character.isprintable())


def run_tool(order: Order, lease: Lease, deadline: Deadline, _board: object = None) -> Ended:
    """Run the tool; it and its process group are gone when this returns or raises.

    Raises LeaseLostError, ConnectionLostError, and what a signal raises.
    """
    began = time.monotonic()
    output = _Output()
    try:
        process = subprocess.Popen(  # noqa: S603 - that is what it is for, and no shell is involved
            dying_with_us([_found(order), *order.argv[1:]]),
            env=_environment(order),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Ended(None, None, 0.0, (), timed_out=False, cannot_start=error.strerror or str(error))
    timed_out = False
    with _ended(process):
        looked = time.monotonic()
        while process.poll() is None:
            if _read(process, output):
                break
            if deadline.passed():
                timed_out = True
                break
            lease.check_guard()
            if time.monotonic() - looked > _LOOK_EVERY:
                _look(lease)
                looked = time.monotonic()
        rest = Deadline(_LINGER)
        while not timed_out and not rest.passed() and not _read(process, output, 0.02):
            pass
        if process.poll() is None and not timed_out:
            # It has closed its output, and goes on.
            timed_out = not _wait(process, lease, deadline)
    code = process.wait()
    output.end()
    return Ended(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        seconds=time.monotonic() - began,
        tail=tuple(output.tail),
        timed_out=timed_out,
        cannot_start="",
    )


def _wait(process: subprocess.Popen[bytes], lease: Lease, deadline: Deadline) -> bool:
    """Wait for the end of a tool that prints nothing any more; tell whether it came in time."""
    while process.poll() is None:
        if deadline.passed():
            return False
        pause(min(SLICE, deadline.remaining()))
        lease.check_guard()
    return True


def _found(order: Order) -> str:
    import shutil

    path = order.environ.get(b"PATH")
    return shutil.which(order.argv[0], path=None if path is None else os.fsdecode(path)) or order.argv[0]


def _environment(order: Order) -> dict[bytes, bytes]:
    """Return the application's environment, with the address for migrations where the tool looks for one."""
    environ = dict(order.environ)
    if order.address.variable.startswith("MIGRATION_"):
        environ[b"DATABASE_URL"] = os.fsencode(order.address.conninfo)
        environ.pop(b"DATABASE_URL_FILE", None)
    elif order.address.variable.endswith("_FILE"):
        environ[b"DATABASE_URL"] = os.fsencode(order.address.conninfo)
    if not order.pooled:
        environ.setdefault(b"PGAPPNAME", f"entrypoint:{order.token.partition('.')[0]}:tool".encode())
    return environ


def _read(process: subprocess.Popen[bytes], output: _Output, seconds: float = SLICE) -> bool:
    """Pass on what has come, waiting for so long; tell whether that was the end."""
    pipe = process.stdout
    if pipe is None or not select.select([pipe], [], [], seconds)[0]:
        return False
    data = os.read(pipe.fileno(), 1 << 16)
    output.take(data)
    return not data


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """See at the end that the tool's process group is gone, gently unless it does not listen."""
    output = _Output()
    try:
        yield
    finally:
        grace = Deadline(_GRACE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        while process.poll() is None and not grace.passed():
            _read(process, output, 0.02)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _look(lease: Lease) -> None:
    """See that the row is still ours. Raises LeaseLostError if an operator has freed it."""
    begin = transactions.begin(
        Deadline(_LOOK_STATEMENT),
        server_version=lease.worker.server_version,
        lock_timeout_ms=1_000,
        role=None,
    )
    try:
        results = lease.worker.query(f"{begin}\n{lease.as_role}\n{lease.still_ours()}\nCOMMIT", Deadline(_PATIENCE))
    except StatementError as error:
        # The tool may have a lock on the row, or the server is busy.
        lease.worker.rollback(Deadline(1.0))
        logs.event(logs.DEBUG, "command.look_failed", f"cannot look at the migration lock's row: {error}")
        return
    if not results[-2]:
        lease.revoked = True
        raise lease.lost()
