"""The README's Dockerfiles and its `docker run`, unchanged. tests/test_readme.py has the other blocks."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from demo.postgres import free_port
from images.kit import bases
from images.kit.engine import machine_certificates
from kit.pages import every_block
from kit.processes import until

if TYPE_CHECKING:
    from images.kit.engine import Engine
    from kit.databases import Database

ROOT = Path(__file__).parents[2]
SHOWN = every_block(ROOT / "README.md")
WITHOUT_TOOL, NEW, WITH_TOOL = (block.text for block in SHOWN if block.language == "dockerfile")
(RUN,) = (shlex.split(block.text) for block in SHOWN if block.text.startswith("docker run"))
MIGRATION = "CREATE TABLE orders (id bigint PRIMARY KEY);\n"
# Stands in for an application's program: prints its pid, and how it was started.
STUB = '#!/bin/sh\necho "$$ ${0##*/} $* outcome=$ENTRYPOINT_OUTCOME"\n'
STUBS = ("node", "alembic", "gunicorn")


@pytest.fixture(scope="session")
def python_313(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of an image like python:3.13-slim."""
    base = bases.provide(engine, bases.PYTHON_OF_DEBIAN)
    context = tmp_path_factory.mktemp("python")
    for name in STUBS:
        (context / name).write_text(STUB)
        (context / name).chmod(0o755)
    lines = [
        f"FROM {base}",
        f"COPY {' '.join(STUBS)} /usr/local/bin/",
        "RUN python3 -m venv /usr/local/python",
        "ENV PATH=/usr/local/python/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1",
    ]
    if certificates := machine_certificates():
        shutil.copyfile(certificates, context / "ca")
        lines += ["COPY ca /ca", "ENV PIP_CERT=/ca"]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    return engine.build(context, tag="python:3.13-slim")


@pytest.fixture(scope="session")
def shop(engine: Engine, python_313: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of the application's image, as in `docker run`, built from the first complete Dockerfile.

    The wheel is made as the README says, next to the Dockerfile.
    """
    assert NEW.startswith(f"FROM {python_313}\n")
    context = tmp_path_factory.mktemp("shop")
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={context}", str(ROOT)]
    subprocess.run(wheel, check=True, timeout=300)
    (context / "Dockerfile").write_text(NEW)
    (context / "migrations").mkdir()
    (context / "migrations" / "001_orders.sql").write_text(MIGRATION)
    return engine.build(context, tag=RUN[-1])


def test_the_command_starts_the_application(engine: Engine, shop: str, database: Database) -> None:
    """`docker run` as printed, except for the database's address, and for the port, since others use this machine."""
    docker, run, *options, image = RUN
    assert (docker, run, image) == ("docker", "run", shop)
    shown = next(option for option in options if option.startswith("DATABASE_URL="))
    options[options.index(shown)] = f"DATABASE_URL={database.url}"
    port = free_port()
    command = [str(port) if word == "8080" else word for word in ("python", "-m", "http.server", "8080")]
    assert engine.inspect(shop, "{{json .Config.Cmd}}") == '["python","-m","http.server","8080"]'
    with engine.start(shop, *command, options=["--network=host", *options]) as container:
        until(lambda: _answers(port), 60, container.output)
        assert database.rows("SELECT filename, status FROM schema_migrations") == [("001_orders.sql", "completed")]
        # The application has replaced it.
        assert container.exec("cat", "/proc/1/cmdline").stdout.split("\0")[:3] == ["python", "-m", "http.server"]


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False


def run(engine: Engine, image: str, database: Database) -> tuple[str, list[str]]:
    """Run an image with its own command; return what its application printed, and what the tool printed before."""
    done = engine.run("run", "--rm", "--network=host", "-e", f"DATABASE_URL={database.url}", image)
    (said,) = (line for line in done.stdout.splitlines() if "outcome=" in line and not line.startswith("{"))
    pid, application = said.split(" ", 1)
    assert pid == "1", "the application is pid 1"
    return application, re.findall(r"alembic upgrade head outcome=", done.stderr + done.stdout)


def test_the_first_lines_are_enough_for_an_image_that_has_the_program(
    engine: Engine, shop: str, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {shop}\n{WITHOUT_TOOL}")
    image = engine.build(tmp_path, tag="shop-of-node")
    assert run(engine, image, database) == ("node server.js outcome=migrated", [])
    assert run(engine, image, database) == ("node server.js outcome=up_to_date", [])


def test_a_tool_is_run_once_and_not_again(engine: Engine, shop: str, database: Database, tmp_path: Path) -> None:
    (tmp_path / "alembic" / "versions").mkdir(parents=True)
    (tmp_path / "alembic" / "versions" / "1_orders.py").write_text("")
    (tmp_path / "Dockerfile").write_text(f"FROM {shop}\nCOPY alembic alembic\n{WITH_TOOL}")
    image = engine.build(tmp_path, tag="shop-with-alembic")
    # The tool's own history, which the stub leaves alone: without one, a tool runs at each start.
    database.execute(
        "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY); INSERT INTO alembic_version VALUES ('1')"
    )
    application, tool = run(engine, image, database)
    assert application == "gunicorn app:app outcome=migrated"
    assert len(tool) == 1
    assert run(engine, image, database) == ("gunicorn app:app outcome=up_to_date", [])
