"""What a command prints: all of it, or an error that says so. A full disk is no mistake in the program."""

from __future__ import annotations

import sys

from entrypoint.errors import EntrypointError
from entrypoint.redaction import foreign


def write(text: str, *, done: str = "") -> None:
    """Write `text` to stdout, and see that it gets there, if anybody still reads. Raises EntrypointError.

    `done`: what has been done by now, as a clause, where running the command again would do it twice.
    """
    if sys.stdout is None:
        raise _cannot("it is closed", done)
    # A locale that lacks a letter of a file's name is no reason to say nothing.
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        return  # Whoever was reading has seen enough, as `check | head` does.
    except OSError as error:
        raise _cannot(foreign(error.strerror or str(error)), done) from None


def is_terminal() -> bool:
    """Tell whether a person reads stdout on a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def _cannot(why: str, done: str) -> EntrypointError:
    problem = f"The output cannot be written: {why}"
    where = "Check where it goes (the disk may be full)"
    if done:
        return EntrypointError(f"{problem}. But {done}", remedy=f"{where}. There is no need to run it again.")
    return EntrypointError(problem, remedy=f"{where}, and run it again.")
