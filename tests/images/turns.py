"""Run programs in turns and print what each took, as JSON. A separate script, since it runs inside a container.

Arguments: how often, and a JSON object of names and command lines. The environment is passed on.
"""

import json
import os
import sys
import time


def main() -> None:
    """Print, for each name, a list of [wall, cpu] in seconds. The first round does not count."""
    runs, commands = int(sys.argv[1]), json.loads(sys.argv[2])
    names = list(commands)
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    nothing = os.open(os.devnull, os.O_RDWR)
    quiet = [(os.POSIX_SPAWN_DUP2, nothing, number) for number in (0, 1, 2)]
    for turn in range(runs + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            environment = dict(os.environ)
            command = list(commands[name])
            while "=" in command[0]:
                variable, _, value = command.pop(0).partition("=")
                environment[variable] = value
            began = time.monotonic()
            pid = os.posix_spawnp(command[0], command, environment, file_actions=quiet)
            _, status, usage = os.wait4(pid, 0)
            wall = time.monotonic() - began
            if status:
                sys.exit(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
            if turn:
                taken[name].append([wall, usage.ru_utime + usage.ru_stime])
    print(json.dumps(taken))


main()
