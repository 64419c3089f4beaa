"""Start one program after another and report what each took. `measure.Spawner` runs this as a script.

It is a separate process because it is small. Linux includes the memory of a program's parent in the program's peak
(`ru_maxrss`), so this process's memory, about 10 MB, is the least that can be measured.

A line of JSON in, `{"argv", "env", "output", "limit", "directory"}`; a line out, `{"began", "wall", "cpu", "peak",
"code", "limited"}`: nanoseconds of CLOCK_MONOTONIC, seconds, seconds of user and system time of the program and of all
descendants that were waited for, bytes, exit code, and whether it was killed for taking longer than `limit` seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def spawn(argv: list[str], env: dict[str, str], output: str, limit: float, directory: str) -> dict[str, float]:
    """Run `argv` in `directory` to its end, or to the limit; its stdout and stderr go to the file `output`."""
    os.chdir(directory)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, OPEN_NEW, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    limited = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal limited
        limited = True
        os.killpg(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    # A new process group, so that what it starts can be killed with it.
    pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setpgroup=0)
    signal.setitimer(signal.ITIMER_REAL, limit)
    _, status, usage = os.wait4(pid, 0)
    ended = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {
        "began": began,
        "wall": (ended - began) / 1e9,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,  # Linux reports kilobytes
        "code": os.waitstatus_to_exitcode(status),
        "limited": limited,
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(spawn(**json.loads(line))), flush=True)
