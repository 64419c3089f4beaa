"""A program under a keeper, which is a small process that kills it and its descendants when we ask, or are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from entrypoint.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KEEPER = os.path.join(os.path.dirname(__file__), "keeper.py")
_BEAT_EVERY = 1.0


class KeptProgram:
    """One program with its keeper."""

    def __init__(self, argv: Sequence[str], environ: Mapping[bytes, bytes], stdout: int, stderr: int) -> None:
        """Start the keeper, which starts the program. Raises OSError if no process can be started."""
        self._said = b""
        self._beaten = time.monotonic()
        self._control_end, self._control = os.pipe()
        self.status, status_end = os.pipe()
        """A descriptor that becomes readable when there is something for `listen`."""
        os.set_blocking(self._control, False)
        os.set_blocking(self.status, False)
        self.pid = 0
        self.code: int | None = None
        """The program's exit code; -n after signal n."""
        self.errno = 0
        """Why the program could not be executed."""
        self.over = False
        """Whether none of its processes is left."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 - that is what it is for, and no shell is involved
                [*_program(), str(self._control_end), str(status_end), *argv],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(self._control_end, status_end),
                start_new_session=True,
            )
        except BaseException:
            # If the keeper was started, closing its pipe ends it.
            os.close(self._control)
            os.close(self.status)
            raise
        finally:
            os.close(self._control_end)
            os.close(status_end)

    def beat(self) -> None:
        """Tell the keeper that we are alive, if it is time to. Call this often."""
        if time.monotonic() - self._beaten >= _BEAT_EVERY:
            self._beaten = time.monotonic()
            self._write(b".")

    def terminate(self) -> None:
        """Ask the program's process group to end."""
        self._write(b"T")

    def kill(self) -> None:
        """Have the keeper kill the program and all its descendants."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def listen(self) -> None:
        """Read what the keeper reports."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.status, 4096)
            self._said += data
            if not data:
                self._end()
        *lines, self._said = self._said.split(b"\n")
        for what, _, number in (line.partition(b" ") for line in lines):
            if what == b"pid":
                self.pid = int(number)
            elif what == b"errno":
                self.errno = int(number)
            else:
                self.code = int(number) if what == b"exit" else -int(number)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` until nothing is left, and tell whether that is so. Signals raise as usual."""
        patience = Deadline(seconds)
        while not self.over and not patience.passed():
            self.listen()
            if not self.over:
                time.sleep(min(0.01, patience.remaining()))
        return self.over

    def close(self) -> None:
        """Close the pipes to the keeper. If it has not ended, it kills what is left without us."""
        self.kill()
        if self.status >= 0:
            os.close(self.status)
            self.status = -1

    def _end(self) -> None:
        """Record that the keeper is gone. If it was killed, the kernel has killed the program."""
        self.over = True
        self._process.wait()
        if self.code is None and not self.errno:
            self.code = -signal.SIGKILL
            if self.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    def _write(self, data: bytes) -> None:
        if self._control >= 0:
            # The keeper may have ended, or be stopped.
            with contextlib.suppress(BrokenPipeError, BlockingIOError):
                os.write(self._control, data)


def _program() -> list[str]:
    # In the self-contained folder there is no Python interpreter to call, only our own program (packaging/main.py).
    return [sys.executable, *(["--keeper"] if getattr(sys, "frozen", False) else ["-I", "-S", _KEEPER])]
