"""Hold a Python process in the last moment before it executes another program, until the test lets it go.

Only the process that a test wants to catch there finds this, through PYTHONPATH. An audit hook sees `os.execve` after
everything else has been done, and a signal's exception passes through it as through exec itself.
"""

import os
import sys
import time

_DIRECTORY = os.environ.get("FAULTS_HOLD_AT_EXEC")


def _hold(event: str, _args: tuple[object, ...]) -> None:
    if event == "os.exec" and _DIRECTORY:
        with open(f"{_DIRECTORY}/reached", "w", encoding="utf-8"):  # noqa: PTH123 - pathlib is not imported here
            pass
        while not os.path.exists(f"{_DIRECTORY}/go"):  # noqa: PTH110 - the same
            time.sleep(0.005)


if _DIRECTORY:
    sys.addaudithook(_hold)
