"""Stands in for `docker` before compose/upgrade: containers that are lines in a file. A script of its own.

The folder DOCKER_STATE has `state.json`, which `tests/test_compose_upgrade.py` writes and describes.
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
    """Read the state, and write what was made of it; one process at a time."""
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads((FOLDER / "state.json").read_text())
        yield state
        (FOLDER / "state.json").write_text(json.dumps(state))


def hold(place: str) -> None:
    """Wait here, the first time, if the test wants it, until it says go or ends us, as it would end a client."""
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
    """Start replicas until there are so many."""
    with engine() as state:
        replicas = state["replicas"]
        while len(replicas) < wanted and state["starts"]:
            state["made"] += 1
            replicas[f"new{state['made']}"] = {"state": "running 0 starting", "serves": False}
    hold("up")


def stop(name: str) -> None:
    """Stop a replica; the engine does so even if the client is gone."""
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
    """Tell how a replica stands. The next answer may be another: a new one needs a moment."""
    with engine() as state:
        print(state["replicas"][name]["state"])
        if name.startswith("new"):
            state["replicas"][name] = dict(state["new"])


def serving() -> None:
    """Tell to how many the balancer sends requests; what was stopped counts for as many questions as it lags behind."""
    with engine() as state:
        late = int(state["stale"] > 0)
        state["stale"] -= late
        print(sum(replica["serves"] for replica in state["replicas"].values()) + late)


def remove(name: str) -> None:
    """Remove a replica that was stopped."""
    with engine() as state:
        if state["replicas"][name]["state"].startswith("running"):
            sys.exit(f"{name} is running")
        del state["replicas"][name]


def main() -> None:
    """Do what the script asks for; anything else is an error."""
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
