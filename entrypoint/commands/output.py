"""Print a command's output, or report that it cannot be written. A full disk is not a bug."""

from __future__ import annotations

import sys

from entrypoint.errors import EntrypointError
from entrypoint.redaction import foreign


def write(text: str, *, done: str = "") -> None:
    """Write `text` to stdout, and make sure that it arrives, unless the reader has gone. Raises EntrypointError.

    `done`: what has already been done, as a clause, if the command should not be run again.
    """
    if sys.stdout is None:
        raise _cannot("it is closed", done)
    # Escape letters that the locale cannot represent.
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        return  # The reader has seen enough, as in `check | head`.
    except OSError as error:
        raise _cannot(foreign(error.strerror or str(error)), done) from None


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def _cannot(why: str, done: str) -> EntrypointError:
    problem = f"The output cannot be written: {why}"
    where = "Check where it goes (the disk may be full)"
    if done:
        return EntrypointError(f"{problem}. But {done}", remedy=f"{where}. There is no need to run it again.")
    return EntrypointError(problem, remedy=f"{where}, and run it again.")
