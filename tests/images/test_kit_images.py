"""The helpers themselves: engines that see nothing of each other, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from images.kit import bases
from images.kit import engine as engines
from images.kit import namespace as namespaces
from images.kit import podman as podmen
from images.kit.engine import Engine, EngineError, missing_programs
from kit.processes import alive, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.processes import Run

ROOT = Path(__file__).parents[2]

# An engine in a namespace, and a container that runs until somebody ends us.
PROGRAM = """\
import sys, time
import tests.images
from images.kit import bases
from images.kit.engine import Engine
from images.kit.namespace import Namespace
namespace = Namespace()
engine = Engine(namespace)
container = engine.start(bases.provide(engine, bases.OLDEST), "sleep", "infinity")
print(engine.directory, namespace.name, container.pid, flush=True)
time.sleep(600)
"""

# A pod that runs until somebody ends us.
POD_PROGRAM = """\
import time
import tests.images
from images.kit import bases
from images.kit.podman import Podman
podman = Podman()
podman.run("import", bases._archive(bases.PYTHON), "localhost/python:1")
podman.make_pause("localhost/python:1")
container = {"name": "main", "image": "localhost/python:1", "command": ["/bin/sleep", "infinity"]}
spec = {"hostNetwork": True, "restartPolicy": "Never", "containers": [container]}
pod = podman.play({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "left"}, "spec": spec})
assert pod.played() == 0, pod
print(podman.directory, pod.pid("main"), flush=True)
time.sleep(600)
"""


def test_the_engines_have_images_and_networks_of_their_own(
    engine: Engine, isolated_engine: Engine, postgres_image: str
) -> None:
    isolated_engine.copy_from(engine, postgres_image)
    assert isolated_engine.has(postgres_image)
    assert isolated_engine.namespace is not None
    isolated_engine.run("network", "create", "shop")
    options = ["--network=shop", "--env=POSTGRES_PASSWORD=secret", "--publish=127.0.0.1:5432:5432", "--name=db"]
    query = ["psql", "-X", "-At", "-c", "SELECT 6 * 7"]
    with isolated_engine.start(postgres_image, options=options) as server:
        until(lambda: server.exec("pg_isready", "-h", "127.0.0.1", check=False).returncode == 0, 60, "PostgreSQL")
        url = "postgresql://postgres:secret@db/postgres"
        # By its name, from another container.
        beside = isolated_engine.run("run", "--rm", "--network=shop", postgres_image, *query, url)
        assert beside.stdout == "42\n"
        # By its published port, on this engine's loopback; nobody listens on the machine's own.
        reachable = isolated_engine.command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/5432", check=False)
        assert reachable.returncode == 0, reachable.stderr
        addresses = subprocess.run(["ss", "-Hltnp", "sport = 5432"], capture_output=True, text=True, check=True)
        assert "docker-proxy" not in addresses.stdout


def test_a_failure_is_told_with_its_output(engine: Engine) -> None:
    with pytest.raises(EngineError, match="no-such-image"):
        engine.run("run", "--pull=never", "no-such-image", timeout=60)


def test_a_base_that_is_not_what_it_stands_for_is_refused(engine: Engine) -> None:
    moved = dataclasses.replace(bases.OLDEST, stands_for=("libc6", "2.99", "OLDEST in the tests"))
    engine.run("image", "rm", moved.name, check=False)
    with pytest.raises(bases.BaseImageError, match=r"libc6 2\.31.* and not 2\.99\*\.\n  Fix: Change OLDEST in the"):
        bases.provide(engine, moved)
    assert not engine.has(moved.name), "nobody else takes it for good"
    bases.provide(engine, dataclasses.replace(moved, stands_for=("libc6", "2.31", "")))


# Its parent's end stops it, and the next engine removes the rest: everything, if the daemon has not ended yet.
@pytest.mark.parametrize(
    ("number", "at_once"),
    [(signal.SIGTERM, False), (signal.SIGKILL, False), (signal.SIGKILL, True)],
    ids=["SIGTERM", "SIGKILL", "SIGKILL and swept at once"],
)
def test_an_engine_that_nobody_ends_is_swept_up(
    engine: Engine, run_program: Callable[..., Run], number: signal.Signals, *, at_once: bool
) -> None:
    run = run_program([sys.executable, "-c", PROGRAM], cwd=ROOT, env={"HOME": os.environ["HOME"]})
    until(lambda: "\n" in run.stdout or not run.running, 600, run.report)
    directory, namespace, container = run.stdout.split()
    assert int(container) in engines.processes_of(Path(directory))
    run.kill(number)
    run.wait()
    if not at_once:
        until(lambda: not engines.processes_of(Path(directory)), 60, "the end of its processes")
    engines.sweep()
    namespaces.sweep()
    assert not alive(int(container))
    assert not engines.processes_of(Path(directory))
    assert not Path(directory).exists()
    assert not Path("/run/netns", namespace).exists()
    assert directory not in Path("/proc/self/mountinfo").read_text()
    assert engine.run("version").returncode == 0


def test_pods_that_nobody_ends_are_swept_up(engine: Engine, run_program: Callable[..., Run]) -> None:
    absent = missing_programs(*podmen.PROGRAMS)
    if absent:
        missing(f"not installed: {', '.join(absent)} (Debian: podman, runc)")
    run = run_program([sys.executable, "-c", POD_PROGRAM], cwd=ROOT, env={"HOME": os.environ["HOME"]})
    until(lambda: "\n" in run.stdout or not run.running, 600, run.report)
    directory, container = run.stdout.split()
    # Its pause container, its conmons and the pod itself outlive whoever started them.
    run.kill()
    run.wait()
    assert int(container) in engines.processes_of(Path(directory))
    podmen.sweep()
    assert not alive(int(container))
    assert not engines.processes_of(Path(directory))
    assert not Path(directory).exists()
    assert directory not in Path("/proc/self/mountinfo").read_text()
