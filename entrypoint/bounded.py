"""Runs a configured command with a time limit, and captures its output up to a size limit.

The command leads a new session. In the end, whatever happens, the whole session is killed: processes that a shell has
left in the background would otherwise become children of the application.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from typing import NamedTuple

from entrypoint import signals
from entrypoint.deadline import SLICE
from entrypoint.memory import file_in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from entrypoint.deadline import Deadline

_MOST_BYTES = 65_536
_PIECE = 65_536
# Seconds to read the rest of the pipes after the command has ended. A background process may keep them open.
_DRAINING = 0.1


class CommandResult(NamedTuple):
    """How a command ended."""

    code: int
    """The exit code; -n after signal n."""
    output: bytes
    complaints: bytes
    """What it wrote to stderr."""

    @property
    def how(self) -> str:
        """How it ended, in words."""
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


class OutOfTime(Exception):  # noqa: N818 - a result, which the caller turns into an error
    """The deadline has passed."""


def run(
    argv: Sequence[str], deadline: Deadline, *, environ: Mapping[str, str] | None = None, data: bytes = b""
) -> CommandResult:
    """Run `argv` until `deadline`, with `data` on stdin. Without `environ`, it gets our environment.

    Raises OSError if it cannot be started, OutOfTime, and Interrupted after a signal.
    """
    source = file_in_memory("input")
    process = None
    try:
        os.write(source, data)
        os.lseek(source, 0, os.SEEK_SET)
        try:
            # A signal in the middle of Popen would raise before we know the child.
            with signals_held_back():
                process = subprocess.Popen(  # noqa: S603 - no shell, unless one is configured
                    argv,
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env=environ,
                )
            output, complaints = _read(process, deadline)
        finally:
            if process is not None:
                _end(process)
    finally:
        os.close(source)
    return CommandResult(process.returncode, output, complaints)


def _read(process: subprocess.Popen[bytes], deadline: Deadline) -> tuple[bytes, bytes]:
    """Read both outputs until the command has ended. Raises OutOfTime."""
    assert process.stdout is not None  # noqa: S101 - we asked for it
    assert process.stderr is not None  # noqa: S101 - as above
    pipes = process.stdout.fileno(), process.stderr.fileno()
    texts = {pipe: bytearray() for pipe in pipes}
    poll = select.poll()
    for pipe in pipes:
        poll.register(pipe, select.POLLIN)
    left = set(pipes)
    until = deadline
    while left or not _has_ended(process):
        if until is deadline and _has_ended(process):
            until = deadline.within(_DRAINING)
        # Without pipes, this only sleeps.
        for pipe, _ in poll.poll(min(until.remaining(), SLICE if left else _DRAINING) * 1000):
            piece = os.read(pipe, _PIECE)
            texts[pipe] += piece[: _MOST_BYTES - len(texts[pipe])]
            if not piece:
                poll.unregister(pipe)
                left.discard(pipe)
        signals.raise_lost()
        if until.passed():
            if until is deadline:
                raise OutOfTime
            break
    return bytes(texts[pipes[0]]), bytes(texts[pipes[1]])


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether the command has ended, without reaping it: as a zombie it keeps its session id from being reused.

    If SIGCHLD is ignored, which daemons do and pass on, the kernel leaves no zombie and forgets how the command ended.
    That counts as ended, too, as for `subprocess`.
    """
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the command's session, and reap the command."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in filter(None, (process.stdout, process.stderr)):
        pipe.close()


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Delay signals that would raise in this block (see signals.py) until its end. In other threads, none raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, lambda signum, _frame: arrived.append(signum))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        for signum in arrived:
            signal.raise_signal(signum)
