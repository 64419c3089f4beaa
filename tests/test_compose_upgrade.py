"""compose/upgrade with a misbehaving engine: broken replicas, interruptions, and a slow load balancer.

The engine is a stand-in, `kit/programs/docker.py`; tests/images/test_compose.py uses a real one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.processes import Run

ROOT = Path(__file__).parents[1]
STANDIN = Path(__file__).parent / "kit" / "programs" / "docker.py"

# The output of `docker inspect` that the script asks for, and whether the balancer sends requests there.
HEALTHY = {"state": "running 0 healthy", "serves": True}
UNHEALTHY = {"state": "running 0 unhealthy", "serves": False}
LOOPING = {"state": "restarting 7 unhealthy", "serves": False}


class Upgrade:
    """A project with the replicas `old`, in which the script runs."""

    def __init__(self, folder: Path, start: Callable[..., Run], *old: dict[str, Any], **state: Any) -> None:
        """`state`: what `new` replicas are like; where to `hold`; by how many answers the balancer should `lag`."""
        self.folder = folder
        self._start = start
        shutil.copy(ROOT / "compose" / "upgrade", folder)
        (folder / "docker").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {STANDIN} "$@"\n')
        (folder / "docker").chmod(0o755)
        replicas = {f"old{number}": replica for number, replica in enumerate(old, 1)}
        defaults = {"made": 0, "new": HEALTHY, "starts": True, "hold": None, "lag": 0, "stale": 0, "asked": []}
        (folder / "state.json").write_text(json.dumps({"replicas": replicas, **defaults, **state}))

    @property
    def state(self) -> dict[str, Any]:
        """Return the stand-in's current state."""
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    @property
    def replicas(self) -> list[str]:
        """Return the names of the existing replicas."""
        return sorted(self.state["replicas"])

    def run(self) -> Run:
        """Start the script."""
        path = f"{self.folder}:{os.environ['PATH']}"
        return self._start([self.folder / "upgrade"], env={"PATH": path, "DOCKER_STATE": str(self.folder)})

    def held(self) -> Run:
        """Start the script and wait until the stand-in holds it."""
        run = self.run()
        until((self.folder / "held").exists, 30, run.report)
        return run

    def go(self) -> None:
        """Let the stand-in continue."""
        (self.folder / "go").touch()


@pytest.fixture
def upgrade(tmp_path: Path, run_program: Callable[..., Run]) -> Callable[..., Upgrade]:
    """Return a function that creates a project."""
    return lambda *old, **state: Upgrade(tmp_path, run_program, *old, **state)


def test_all_replicas_are_replaced(upgrade: Callable[..., Upgrade]) -> None:
    project = upgrade(HEALTHY, HEALTHY, HEALTHY)
    run = project.run().ok(60)
    assert project.replicas == ["new1", "new2", "new3"]
    assert run.stderr.splitlines() == [f"upgrade: replaced {number} of 3" for number in (1, 2, 3)]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "old",
    [[HEALTHY, LOOPING, HEALTHY], [LOOPING, HEALTHY, UNHEALTHY], [LOOPING, LOOPING, LOOPING]],
    ids=["one", "two", "all"],
)
def test_broken_replicas_are_replaced(upgrade: Callable[..., Upgrade], old: list[dict[str, Any]]) -> None:
    project = upgrade(*old)
    project.run().ok(60)
    assert project.replicas == ["new1", "new2", "new3"]


@pytest.mark.thorough
def test_a_balancer_that_still_counts_what_has_ended_is_asked_again(upgrade: Callable[..., Upgrade]) -> None:
    project = upgrade(HEALTHY, HEALTHY, lag=1)
    project.run().ok(60)
    assert project.replicas == ["new1", "new2"]


@pytest.mark.thorough
def test_a_new_replica_that_gets_no_requests_replaces_none(upgrade: Callable[..., Upgrade]) -> None:
    project = upgrade(HEALTHY, LOOPING, new={**HEALTHY, "serves": False})
    # Shorten its wait for the balancer, which is a minute.
    script = project.folder / "upgrade"
    script.write_text(script.read_text().replace("until_true 60 balanced", "until_true 1 balanced"))
    run = project.run()
    assert run.wait(60) == 1
    assert "the balancer sends no requests to the new replica new1" in run.stderr
    assert "the log of new1" in run.stdout + run.stderr
    assert "stopped: 2 replicas are left, 0 of 2 new" in run.stderr
    assert project.replicas == ["old1", "old2"]


@pytest.mark.thorough
def test_a_new_replica_that_does_not_get_healthy_is_removed(upgrade: Callable[..., Upgrade]) -> None:
    project = upgrade(HEALTHY, HEALTHY, new={"state": "restarting 1 starting", "serves": False})
    run = project.run()
    assert run.wait(60) == 1
    assert "did not become healthy" in run.stderr
    assert project.replicas == ["old1", "old2"]


# To the script alone, as a supervisor sends it, and to its whole session, as Ctrl-C does.
@pytest.mark.parametrize("everybody", [False, True], ids=["script", "everybody"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("place", ["up", "stop"])
@pytest.mark.thorough
def test_interrupted_it_leaves_as_many_replicas_as_there_were(
    upgrade: Callable[..., Upgrade], place: str, number: signal.Signals, *, everybody: bool
) -> None:
    project = upgrade(HEALTHY, LOOPING, HEALTHY, hold=place)
    run = project.held()
    if everybody:
        os.killpg(run.pid, number)
    else:
        run.kill(number)
        project.go()
    assert run.wait(30) == 128 + number
    assert project.replicas == (["old1", "old2", "old3"] if place == "up" else ["new1", "old1", "old2"])
    # The stopped replica is gone, and the next run replaces as many as there were.
    again = project.run().ok(60)
    assert "replaced 3 of 3" in again.stderr
    assert len(project.replicas) == 3


def test_without_a_replica_it_refuses(upgrade: Callable[..., Upgrade]) -> None:
    project = upgrade()
    run = project.run()
    assert run.wait(30) == 1
    assert "the application has no replicas here, so there is nothing to replace" in run.stderr
    assert "Fix: Start it: docker compose up --detach" in run.stderr
    assert not [words for words in project.state["asked"] if "up" in words]


def test_if_compose_starts_nothing_it_says_so(upgrade: Callable[..., Upgrade]) -> None:
    project = upgrade(HEALTHY, HEALTHY, starts=False)
    run = project.run()
    assert run.wait(30) == 1
    assert "there is no new replica; Compose found nothing to start" in run.stderr
    assert "stopped: 2 replicas are left, 0 of 2 new" in run.stderr
