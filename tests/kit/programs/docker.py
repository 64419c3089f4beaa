"""A script that replaces `docker` in tests of compose/upgrade. Its containers are entries in a file.

The file is `state.json` in the folder DOCKER_STATE; `tests/test_compose_upgrade.py` writes and describes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(os.environ["DOCKER_STATE"])


@contextmanager
def engine() -> Iterator[dict[str, Any]]:
    """Yield the state, and write it back afterwards; one process at a time."""
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads((FOLDER / "state.json").read_text())
        yield state
        (FOLDER / "state.json").write_text(json.dumps(state))


def hold(place: str) -> None:
    """Wait here if the test asks for it, the first time, until it lets us go on or kills us like a client."""
    with engine() as state:
        held = state["hold"] == place
        if held:
            state["hold"] = None
    if held:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        (FOLDER / "held").touch()
        while not (FOLDER / "go").exists():
            time.sleep(0.01)


def up(wanted: int) -> None:
    """Start replicas until there are as many as wanted."""
    with engine() as state:
        replicas = state["replicas"]
        while len(replicas) < wanted and state["starts"]:
            state["made"] += 1
            replicas[f"new{state['made']}"] = {"state": "running 0 starting", "serves": False}
    hold("up")


def stop(name: str) -> None:
    """Stop a replica. The engine does this even if the client is gone."""
    with engine() as state:
        replica = state["replicas"][name]
        if replica["serves"]:
            state["stale"] = state["lag"]
        replica.update(state="exited 0 unhealthy", serves=False)
    hold("stop")


def compose(arguments: list[str]) -> None:
    """Do what `docker compose` would."""
    match arguments:
        case ["ps", "-q", "balancer"]:
            print("balancer")
        case ["config", "--services"]:
            print("app\nbalancer")
        case ["up", "--detach", "--no-deps", "--no-recreate", "--scale", scale, "app"]:
            up(int(scale.removeprefix("app=")))
        case _:
            sys.exit(f"unknown: {arguments}")


def inspect(name: str) -> None:
    """Print the state of a replica. A new one becomes ready after the first answer."""
    with engine() as state:
        print(state["replicas"][name]["state"])
        if name.startswith("new"):
            state["replicas"][name] = dict(state["new"])


def serving() -> None:
    """Print how many replicas the balancer sends requests to. A stopped one still counts for the next `lag` answers."""
    with engine() as state:
        late = int(state["stale"] > 0)
        state["stale"] -= late
        print(sum(replica["serves"] for replica in state["replicas"].values()) + late)


def remove(name: str) -> None:
    """Remove a stopped replica."""
    with engine() as state:
        if state["replicas"][name]["state"].startswith("running"):
            sys.exit(f"{name} is running")
        del state["replicas"][name]


def main() -> None:
    """Do what the script asks for; anything unknown is an error."""
    with engine() as state:
        state["asked"].append(sys.argv[1:])
    match sys.argv[1:]:
        case ["compose", *arguments]:
            compose(arguments)
        case ["ps", "--all", *_]:
            print("".join(f"{name}\n" for name in reversed(state["replicas"])), end="")
        case ["inspect", "--format", _, "balancer"]:
            print("shop")
        case ["inspect", "--format", _, name]:
            inspect(name)
        case ["exec", "balancer", "wget", *_]:
            serving()
        case ["logs", *_, name]:
            print(f"the log of {name}")
        case ["stop", name]:
            stop(name)
        case ["rm", name]:
            remove(name)
        case arguments:
            sys.exit(f"unknown: {arguments}")


main()
