"""What the folder's program runs first, in the place of cx_Freeze's own init script.

That one imports importlib.util and with it `re`, `typing` and others, which an up-to-date start does without.
"""

# What `signal` is made of; see entrypoint/signals.py.
import _signal
import sys

# The convention of programs that freeze others.
sys.frozen = True

# As an ordinary Python does at its start; cx_Freeze configures one that leaves them alone. Without it, a log that
# nobody reads any more would end the program before the application is started.
_signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
_signal.signal(_signal.SIGXFSZ, _signal.SIG_IGN)


def run(name: str) -> None:
    """Run the main script, which is the module `name`."""
    __import__(name)
