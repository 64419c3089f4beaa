"""A separate script: exec another program that ends when the process that started it ends.

    python -I -S die_with_parent.py PARENT PROGRAM [ARGUMENT ...]

`pg_dump` must not outlive us, even if we are killed: its locks would block the next migration. prctl(2) must be called
in the child. But a process with threads must not run Python between fork and exec, so this is a script. The prctl
setting survives the exec. Without ctypes the program runs without it.
"""

import os
import signal
import sys

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def main(words: list[str]) -> None:
    """Exec the program. `words`: the parent's process ID, the program, and its arguments."""
    parent, *argv = words
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (ImportError, OSError, AttributeError):
        pass
    if os.getppid() != int(parent):
        sys.exit(1)  # The parent has already ended.
    # Python ignores these, and the program would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - our purpose
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
