"""Waits during a backup, for a child or for a system call that may block, with a deadline."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from typing import NamedTuple, TypeVar

from entrypoint import logs, signals
from entrypoint.bounded import OutOfTime
from entrypoint.memory import file_in_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from entrypoint.deadline import Deadline

_T = TypeVar("_T")

_LOOK_EVERY = 1.0
_TICK = 0.25
# Seconds for a child to end after SIGTERM, on which pg_dump cancels its query in the server, and after SIGKILL.
_KINDLY = 0.4
_KILLED = 0.2
# At most this many bytes of a child's standard error are kept.
_LONGEST_COMPLAINT = 16_384
_DIE_WITH_PARENT = os.path.join(os.path.dirname(__file__), "die_with_parent.py")


class Patience:
    """A deadline for waits, and what to check during them."""

    def __init__(self, deadline: Deadline, look: Callable[[], None]) -> None:
        """Wait until `deadline`. `look` is called about every second, and ends the wait by raising."""
        self.deadline = deadline
        self.look = look
        self._next = time.monotonic() + _LOOK_EVERY

    def check(self) -> None:
        """Raise OutOfTime, what `look` raises, or a signal's exception that was lost before."""
        signals.raise_lost()
        if self.deadline.passed():
            raise OutOfTime
        if time.monotonic() >= self._next:
            self.look()
            self._next = time.monotonic() + _LOOK_EVERY

    def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, checking in between."""
        pause = self.deadline.within(seconds)
        while not pause.passed():
            time.sleep(min(_TICK, pause.remaining()))
            self.check()


class ChildResult(NamedTuple):
    """How a child ended."""

    code: int
    """The exit code; -n after signal n."""
    complaints: str
    """What it wrote to stderr."""


def run(
    argv: Sequence[str], patience: Patience, *, output: int, env: dict[str, str], descriptors: Sequence[int] = ()
) -> ChildResult:
    """Run a program to its end, with its stdout on the descriptor `output`. It inherits `descriptors`.

    Raises OSError if the program cannot be started, and what `patience` raises. When this returns or raises, the
    program has ended, or was killed and the kernel has not finished that yet.
    """
    complaints = file_in_memory("stderr")
    try:
        process = subprocess.Popen(  # noqa: S603 - PostgreSQL's programs, by their full paths
            dying_with_us(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaints,
            env=env,
            pass_fds=descriptors,
        )
        try:
            while True:
                try:
                    code = process.wait(_TICK)
                    break
                except subprocess.TimeoutExpired:
                    patience.check()
        finally:
            _end(process)
        return ChildResult(code, os.pread(complaints, _LONGEST_COMPLAINT, 0).decode(errors="replace"))
    finally:
        os.close(complaints)


def dying_with_us(argv: Sequence[str]) -> list[str]:
    """Return the command that starts `argv` as a child that ends when this process does."""
    # In the self-contained folder there is no Python interpreter to call, only our own program (packaging/main.py).
    die_with_parent = ["--die-with-parent"] if getattr(sys, "frozen", False) else ["-I", "-S", _DIE_WITH_PARENT]
    return [sys.executable, *die_with_parent, str(os.getpid()), *argv]


def apart(work: Callable[[], _T], patience: Patience) -> _T:
    """Call `work` in a thread, because it may block uninterruptibly, and return its result.

    Raises what `work` or `patience` raises. If `patience` does, the thread is abandoned.
    """
    answer: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def run_it() -> None:
        try:
            answer.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            answer.put((None, error))

    threading.Thread(target=logs.carried(run_it), name="backup", daemon=True).start()
    while True:
        try:
            result, error = answer.get(timeout=_TICK)
        except queue.Empty:
            patience.check()
            continue
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # there is a result if there is no error


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child, if it has not ended."""
    for ask, seconds in ((process.terminate, _KINDLY), (process.kill, _KILLED)):
        if process.poll() is not None:
            return
        ask()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
