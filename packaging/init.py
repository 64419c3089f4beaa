"""The first code that the folder's program runs, instead of cx_Freeze's own init script.

That script imports importlib.util, and with it `re`, `typing` and others, which an up-to-date start does not need.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # The inner module of `signal`; see entrypoint/signals.py.
    import _signal as signal

# As in bin/entrypoint, until `main` sets its own handlers.
for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda signum, _frame: os._exit(128 + signum))

# Python would take this from PYTHONEXECUTABLE or __PYVENV_LAUNCHER__ in the image, although it is told to ignore
# variables. We find the program's files next to it, and start it as our own child. start.c has put the path there.
sys.executable = os.path.abspath(sys.orig_argv[0])  # noqa: PTH100 - pathlib would be one more import

# The convention for frozen programs; entrypoint/backup/waiting.py relies on it.
sys.frozen = True  # type: ignore[attr-defined]

# An ordinary Python does this at its start, but cx_Freeze configures it not to. Then, if nobody reads the log any more,
# SIGPIPE would end the program before it starts the application.
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def run(name: str) -> None:
    """Run the main script, the module `name`."""
    __import__(name)
