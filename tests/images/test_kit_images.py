"""The tools themselves: engines that see nothing of each other, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from images.kit import engine as engines
from images.kit import namespace as namespaces
from images.kit.engine import Engine, EngineError
from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.processes import Run

ROOT = Path(__file__).parents[2]

# An engine in a namespace, and a container that runs, until somebody ends us.
PROGRAM = """\
import sys, time
import tests.images
from images.kit.engine import Engine
from images.kit.namespace import Namespace
namespace = Namespace()
engine = Engine(namespace)
print(engine.directory, namespace.name, flush=True)
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
        # By its published port, from this engine's loopback; nobody listens on the machine's own.
        reachable = isolated_engine.command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/5432", check=False)
        assert reachable.returncode == 0, reachable.stderr
        addresses = subprocess.run(["ss", "-Hltnp", "sport = 5432"], capture_output=True, text=True, check=True)
        assert "docker-proxy" not in addresses.stdout


def test_a_failure_is_told_with_its_output(engine: Engine) -> None:
    with pytest.raises(EngineError, match="no-such-image"):
        engine.run("run", "--pull=never", "no-such-image", timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_engine_that_nobody_ends_is_swept_up(
    engine: Engine, run_program: Callable[..., Run], number: signal.Signals
) -> None:
    """By its parent's end; what that leaves, the next engine removes."""
    run = run_program([sys.executable, "-c", PROGRAM], cwd=ROOT, env={"HOME": os.environ["HOME"]})
    run.until_output("\n", 60)
    directory, namespace = run.stdout.split()
    assert engines._processes_of(Path(directory))
    run.kill(number)
    run.wait()
    until(lambda: not engines._processes_of(Path(directory)), 60, "the end of its processes")
    engines.sweep()
    namespaces.sweep()
    assert not Path(directory).exists()
    assert not Path("/run/netns", namespace).exists()
    assert directory not in Path("/proc/self/mountinfo").read_text()
    assert engine.run("version").returncode == 0
