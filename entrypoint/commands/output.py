"""What a command prints: all of it, or an error that says so. A full disk is no mistake in the program."""

from __future__ import annotations

import sys

from entrypoint.errors import EntrypointError
from entrypoint.redaction import foreign


def write(text: str) -> None:
    """Write `text` to stdout, and see that it gets there, if anybody still reads. Raises EntrypointError."""
    if sys.stdout is None:
        raise _cannot("it is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return  # Whoever was reading has seen enough, as `check | head` does.
    except OSError as error:
        raise _cannot(foreign(error.strerror or str(error))) from None


def _cannot(why: str) -> EntrypointError:
    return EntrypointError(
        f"The output cannot be written: {why}", remedy="Look at where it goes, such as a full disk, and run it again."
    )
