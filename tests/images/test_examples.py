"""The images of examples/, built from their Dockerfiles, as far as we have the base images."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from benchmarks import examples
from demo.postgres import free_port
from images.kit import bases
from images.kit.engine import machine_certificates
from kit.processes import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from images.kit.container import Container
    from images.kit.engine import Engine
    from kit.databases import Database

REPLICAS = 3
STOCK = ["apple", "pear"]


@pytest.fixture(scope="session")
def build(
    engine: Engine, image: str, folder_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Return a function that builds an example's image, once; pip is told which certificates to trust."""
    built: dict[str, str] = {}

    def build(name: str) -> str:
        if name not in built:
            bases.provide(engine, bases.PLAIN)
            context = tmp_path_factory.mktemp(name) / "context"
            shutil.copytree(examples.ROOT / name, context)
            trusting(context / "Dockerfile")
            built[name] = engine.build(context, tag=f"shop-{name}")
        return built[name]

    return build


def trusting(dockerfile: Path) -> None:
    """Let pip use the certificates that this machine trusts, if it names any. They do not end up in the image."""
    if machine_certificates():
        text = dockerfile.read_text()
        mount = "RUN --mount=type=secret,id=ca export PIP_CERT=/run/secrets/ca && python -m venv"
        dockerfile.write_text(text.replace("RUN python -m venv", mount))


def answer(port: int) -> list[str]:
    """Return the names of the products, or nothing while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/products", timeout=5) as response:
            return [product["name"] for product in json.loads(response.read())]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return []


@pytest.mark.parametrize("name", ["fastapi-alembic", "django", "rails"])
def test_replicas_of_the_image(engine: Engine, build: Callable[[str], str], database: Database, name: str) -> None:
    """As deployed: read-only, and not as root. The tool runs once, and every replica answers."""
    tag = build(name)
    url = database.url.replace("postgresql", examples.scheme(name), 1)
    replicas: list[tuple[Container, int]] = []
    strict = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--user=65532:65532", "--env=HOME=/tmp"]
    options = [*strict, "--network=host", f"--env=DATABASE_URL={url}"]
    with contextlib.ExitStack() as stack:
        for _ in range(REPLICAS):
            port = free_port()
            words = (word.replace("8000", str(port)) for word in examples.image(name).command)
            replicas.append((stack.enter_context(engine.start(tag, *words, options=options)), port))
        for container, port in replicas:
            assert until(lambda: answer(port), 90, lambda: repr(container)) == STOCK  # noqa: B023 - called at once
        events = [record.get("event") for container, _ in replicas for record in container.logs()]
    assert events.count("command.started") == 1
    assert events.count("schema.migrated") == 1

    done = engine.run("run", "--rm", *options, tag, "printenv", "ENTRYPOINT_OUTCOME")
    assert done.stdout.strip() == "up_to_date"
