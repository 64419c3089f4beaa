"""What the folder's program runs first, in the place of cx_Freeze's own init script.

That one imports importlib.util and with it `re`, `typing` and others, which an up-to-date start does without.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    # What `signal` is made of; see entrypoint/signals.py.
    import _signal as signal

# As in bin/entrypoint, until `main` has handlers of its own.
for number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda signum, _frame: os._exit(128 + signum))

# Python takes this from the image's PYTHONEXECUTABLE or __PYVENV_LAUNCHER__, although it ignores variables. The
# program's files are read from beside it, and it is started as the program's own child. start.c knows the path.
sys.executable = os.path.abspath(sys.orig_argv[0])  # noqa: PTH100 - pathlib is an import more

# The convention of those who freeze programs; entrypoint/backup/waiting.py asks for it.
sys.frozen = True  # type: ignore[attr-defined]

# As an ordinary Python does at its start. cx_Freeze configures one that leaves them alone, and then a log that nobody
# reads any more would end the program before the application is started.
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def run(name: str) -> None:
    """Run the main script, which is the module `name`."""
    __import__(name)
