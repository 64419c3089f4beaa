"""Run another program, with a time limit, and read its output. It does not outlive this process."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile

from entrypoint.bounded import signals_held_back
from entrypoint.deadline import SLICE, Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO

# Seconds after which the user should be told what is taking so long.
_SLOW = 3.0


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    patience: float,
    *,
    directory: str | None = None,
    data: bytes | None = None,
    slow: Callable[[], object] = lambda: None,
) -> tuple[int, bytes, bytes]:
    """Run `command` and return its exit code, its output and its errors; it does not outlive this call.

    `data`: its standard input. `slow`: called once if it takes more than a few seconds. Raises OSError, and
    subprocess.TimeoutExpired after `patience` seconds.
    """
    process = None
    # Not a pipe: called again, `communicate` does not continue with its input (Python 3.11).
    with _file_of(data) as source:
        try:
            # A signal during Popen would raise before the child is known.
            with signals_held_back():
                process = subprocess.Popen(  # noqa: S603 - no shell, and no program that a file names
                    command,
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=directory,
                    env=dict(environ),
                )
            output, errors = _output_of(process, Deadline(patience), slow)
        except BaseException:
            if process is not None:
                process.kill()
                process.wait()
                for pipe in filter(None, (process.stdout, process.stderr)):
                    pipe.close()
            raise
    return process.returncode, output, errors


@contextlib.contextmanager
def _file_of(data: bytes | None) -> Iterator[IO[bytes] | int]:
    """Return a file that a child can read `data` from."""
    if data is None:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield file


def _output_of(process: subprocess.Popen[bytes], deadline: Deadline, slow: Callable[[], object]) -> tuple[bytes, bytes]:
    """Read both outputs to the end, a slice of time at a time. Raises subprocess.TimeoutExpired."""
    soon = Deadline(_SLOW)
    told = False
    while True:
        try:
            return process.communicate(timeout=min(deadline.remaining(), SLICE))
        except subprocess.TimeoutExpired:
            if deadline.passed():
                raise
            if soon.passed() and not told:
                told = True
                slow()
