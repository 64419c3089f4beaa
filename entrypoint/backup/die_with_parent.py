"""Run as a script of its own: become another program, which ends when the process that started it does.

    python -I -S die_with_parent.py PARENT PROGRAM [ARGUMENT ...]

`pg_dump` must not outlive us, even if we are killed: its locks would hold up whoever migrates next. prctl(2) has to
be called in the child, and between fork and exec of a process with threads no Python may run; hence a script. What
it asks for survives the exec. Without ctypes the program runs all the same, without the die_with_parent.
"""

import os
import signal
import sys

# linux/prctl.h
_PR_SET_PDEATHSIG = 1


def main(words: list[str]) -> None:
    """Take our parent's process id, and the program with its arguments."""
    parent, *argv = words
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (ImportError, OSError, AttributeError):
        pass
    if os.getppid() != int(parent):
        sys.exit(1)  # It has ended in the meantime.
    # Python ignores them, and the program would inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - our purpose
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
