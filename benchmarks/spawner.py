"""Start one program after another and tell what each took. Run as a script, by `measure.Spawner`.

It is a process of its own because it is small: Linux counts the memory of whoever starts a program into the
peak (`ru_maxrss`) of that program, so this one's, about 10 MB, is the least that can be measured.

A line of JSON in, `{"argv", "env", "output"}`; a line out, `{"wall", "cpu", "peak", "code"}`: seconds, seconds of
user and system time, bytes, exit code.
"""

from __future__ import annotations

import json
import os
import sys
import time

OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def spawn(argv: list[str], env: dict[str, str], output: str) -> dict[str, float]:
    """Run `argv` to its end; its stdout and stderr go to the file `output`."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, OPEN_NEW, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    began = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,  # Linux counts in kilobytes
        "code": os.waitstatus_to_exitcode(status),
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(spawn(**json.loads(line))), flush=True)
