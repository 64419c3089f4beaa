"""Engines, base images and our own images, each created once for a run."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import missing
from images.kit import bases
from images.kit.engine import CannotStartError, Engine, EngineError, machine_certificates, missing_programs
from images.kit.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MARKER = "in-no-image-4f1c2a9e"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests more time: the first one waits for the images."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1200))


def _need(*programs: str) -> None:
    if os.geteuid() != 0:
        missing("not root: a container engine of our own needs that (sudo make test-images)")
    absent = missing_programs("mmdebstrap", *programs)
    if absent:
        missing(
            f"not installed: {', '.join(absent)} (Debian: docker.io, mmdebstrap, runc, util-linux, iproute2, iptables)"
        )


def _started(stack: contextlib.ExitStack, namespace: Namespace | None = None) -> Engine:
    try:
        engine = Engine(namespace)
    except CannotStartError as error:
        missing(f"no container engine: {error}")
    return stack.enter_context(engine)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Yield an engine on the machine's network; its containers have that network or none. It builds the images."""
    _need()
    with contextlib.ExitStack() as stack:
        yield _started(stack)


@pytest.fixture(scope="session")
def isolated_engine() -> Iterator[Engine]:
    """Yield an engine with its default flags, on a separate network: bridges, names, published ports.

    It reaches nothing outside. Get images into it with `isolated_engine.copy_from(engine, image)`.
    """
    _need("ip", "nsenter", "iptables")
    with Namespace() as namespace, contextlib.ExitStack() as stack:
        yield _started(stack, namespace)


@pytest.fixture(scope="session")
def python_base(engine: Engine) -> str:
    """Return the name of an image like python:3.14-slim, which is the Dockerfile's default and this image's name."""
    return bases.provide(engine, bases.PYTHON)


@pytest.fixture(scope="session")
def plain_base(engine: Engine) -> str:
    """Return the name of an image with Debian and without Python."""
    return bases.provide(engine, bases.PLAIN)


@pytest.fixture(scope="session")
def postgres_image(engine: Engine) -> str:
    """Return the name of an image that behaves like the official postgres:17, as far as our files use it."""
    base = bases.provide(engine, bases.POSTGRES)
    folder = Path(__file__).parent / "kit" / "postgres"
    return engine.build(folder, tag="postgres:17", arguments={"BASE": base})


@pytest.fixture(scope="session")
def build_secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the secrets that our images are built with. Each contains MARKER, so that traces of it can be found."""
    directory = tmp_path_factory.mktemp("secrets")
    trusted = machine_certificates()
    certificates, configuration = directory / "ca", directory / "pip"
    certificates.write_bytes((trusted.read_bytes() if trusted else b"") + f"\n# {MARKER}\n".encode())
    configuration.write_text(f"# {MARKER}\n[global]\ntimeout = 60\n")
    return {"pip": configuration, **({"ca": certificates} if trusted else {})}


@pytest.fixture(scope="session")
def image(engine: Engine, python_base: str, build_secrets: dict[str, Path]) -> str:
    """Return the name of our image, built from the Dockerfile with its defaults."""
    return engine.build(ROOT, tag="pg-entrypoint", secrets=build_secrets)


@pytest.fixture(scope="session")
def folder_image(engine: Engine, python_base: str) -> str:
    """Return the name of the image that the folder is copied from."""
    base = bases.provide(engine, bases.PYTHON_OF_DEBIAN)
    return engine.build(ROOT, tag="pg-entrypoint:folder", target="folder", arguments={"FOLDER_BASE": base})


@pytest.fixture(scope="session")
def folder(engine: Engine, folder_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the folder on this machine."""
    place = tmp_path_factory.mktemp("folder")
    created = engine.run("create", folder_image, "nothing").stdout.strip()
    try:
        engine.run("cp", f"{created}:/opt/entrypoint", place)
    finally:
        engine.run("rm", created)
    return place / "entrypoint"


@pytest.fixture(scope="session")
def full_image(engine: Engine, image: str, build_secrets: dict[str, Path]) -> str:
    """Return the name of our image built with `--target full`, on the same base, with that base's pg_dump."""
    arguments = {"POSTGRES_MAJOR": bases.CLIENT_OF_PYTHON}
    try:
        return engine.build(ROOT, tag="pg-entrypoint:full", target="full", arguments=arguments, secrets=build_secrets)
    except EngineError as error:
        if "Unable to locate package postgresql-client" in str(error):
            pytest.fail(
                f"Debian's {bases.PYTHON.suite} has no postgresql-client-{bases.CLIENT_OF_PYTHON} any more.\n"
                "  Fix: Change CLIENT_OF_PYTHON in tests/images/kit/bases.py.",
                pytrace=False,
            )
        raise
