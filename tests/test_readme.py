"""Every block of code in the README is run as printed, as far as that works without an image.

tests/images/test_readme_images.py builds and runs the Dockerfiles and `docker run`. CI itself runs `make demo` and
`make test`. A new block fails until it has a test.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import entrypoint
from kit.migrations import write_migrations
from kit.pages import every_block

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.databases import Database
    from kit.pages import Block
    from kit.processes import Run

    Start = Callable[..., Run]

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# What identifies each block, and what tests it.
BLOCKS = {
    ("", "dockerfile", "ENTRYPOINT"): "images",
    ("Try it", "", "make demo"): "test_the_targets_of_make_are_there",
    ("Use it", "dockerfile", "FROM"): "images",
    ("Use it", "dockerfile", "ENV MIGRATION_COMMAND="): "images",
    ("Use it", "", "docker run"): "images",
    ("Use it", "yaml", "initContainers:"): "test_the_init_container_migrates",
    ("What a migration looks like", "sql", "-- Invoices"): "test_the_migration_is_applied",
    ("What a migration looks like", "", "entrypoint new"): "test_the_commands_in_their_order",
    ("When something goes wrong", "", "error: "): "test_the_error_is_the_one_that_is_shown",
}


def found(begin: str) -> Block:
    """Return the block that begins with `begin`."""
    (block,) = (block for block in every_block(README) if block.text.startswith(begin))
    return block


@pytest.mark.text
def test_each_block_has_its_test() -> None:
    blocks = every_block(README)
    assert len(blocks) == len(BLOCKS)
    for block, (heading, language, begin) in zip(blocks, BLOCKS, strict=True):
        assert (block.heading, block.language) == (heading, language), block.text
        assert block.text.startswith(begin), block.text
    here = {name for name in globals() if name.startswith("test_")}
    assert set(BLOCKS.values()) - {"images"} <= here


@pytest.mark.text
def test_every_version_is_pinned() -> None:
    text = "".join(block.text for block in every_block(README))
    assert re.findall(r"pip install .*?([\w-]+)==(\S+)", text) == [("pg-entrypoint", entrypoint.__version__)]
    assert set(re.findall(r"pg_entrypoint-(.+?)-py3-none-any", text)) == {entrypoint.__version__}
    images = re.findall(r"^FROM (\S+)|image: (\S+)|^docker run .* (\S+)$", text, re.MULTILINE)
    assert images
    for image in ("".join(one) for one in images):
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)?", image), image


@pytest.mark.text
def test_the_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [shlex.split(line, comments=True) for line in found("make demo").text.splitlines()]
    assert lines == [["make", "demo"], ["make", "test"]]
    assert {target for _, target in lines} <= targets
    assert "crowd test tests" in (ROOT / ".ci" / "run").read_text()


def test_the_init_container_migrates(database: Database, migrations_dir: Path, run_entrypoint: Start) -> None:
    """tests/test_manifests.py shows that it is the one shipped in k8s/."""
    (container,) = yaml.safe_load(found("initContainers:").text)["initContainers"]
    program, *command = container["command"]
    assert program == "entrypoint"
    env = {entry["name"]: entry.get("value", database.url) for entry in container["env"]}
    assert env["DATABASE_URL"] == database.url
    write_migrations(migrations_dir, {"001_a.sql": "CREATE TABLE a ();"})
    run_entrypoint(*command, env=env).ok()
    assert database.rows("SELECT filename, status FROM schema_migrations") == [("001_a.sql", "completed")]


COMPANIES = {"001_companies.sql": "CREATE TABLE companies (id bigint PRIMARY KEY);\n"}


def test_the_migration_is_applied(database: Database, migrations_dir: Path, run_entrypoint: Start) -> None:
    (name,) = re.findall(r"^`migrations/(\d{3}_\w+\.sql)`:$", README.read_text(), re.MULTILINE)
    write_migrations(migrations_dir, {**COMPANIES, name: found("-- Invoices").text})
    run_entrypoint("check").ok()
    run_entrypoint("migrate", env={"DATABASE_URL": database.url}).ok()
    assert database.rows("SELECT filename FROM schema_migrations ORDER BY 1") == [("001_companies.sql",), (name,)]
    assert database.one("SELECT count(*) FROM invoices") == 0


def test_the_commands_in_their_order(database: Database, migrations_dir: Path, tmp_path: Path) -> None:
    write_migrations(migrations_dir, COMPANIES)
    said: dict[str, subprocess.CompletedProcess[str]] = {}
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DATABASE_URL": database.url}
    for line in found("entrypoint new").text.splitlines():
        done = subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        said[shlex.split(line)[1]] = done
        if " new " in line:
            # Now somebody writes the SQL: a file without a statement is refused.
            with (migrations_dir / "002_invoices.sql").open("a") as file:
                file.write("CREATE TABLE invoices (id bigint PRIMARY KEY);\n")
    assert list(said) == ["new", "check", "migrate", "status"]
    assert "002_invoices.sql" in said["new"].stdout
    # Rehearsed, then rolled back: both are still pending.
    assert database.one("SELECT to_regclass('invoices')") is None
    assert re.search(r"002_invoices\.sql\W+pending", said["status"].stdout)


def test_the_error_is_the_one_that_is_shown(database: Database, migrations_dir: Path, run_entrypoint: Start) -> None:
    shown = found("error: ").text
    first, fix = shown.splitlines()
    fate = "it was rolled back and recorded as failed"
    name, line, column = re.findall(
        rf'^error: (\d{{3}}_\w+\.sql):(\d+): column "(\w+)" does not exist; {fate}$', first
    )[0]
    write_migrations(
        migrations_dir,
        {"001_customers.sql": "CREATE TABLE customers (id bigint);\n", name: "\n" * (int(line) - 1) + _wrong(column)},
    )
    env: dict[str, Any] = {"DATABASE_URL": database.url, "LOG_FORMAT": "text", "MIGRATION_ON_FAILURE": "exit"}
    run = run_entrypoint("run", "--", "true", env=env)
    assert run.wait() == 70
    # Without the time, and whatever the width of the terminal.
    said = " ".join(re.sub(r"^[\d:.]+ ", "", run.stderr, flags=re.MULTILINE).split())
    assert first in said, said
    # The README cuts it off there.
    assert fix.endswith(". …")
    assert fix.strip().removesuffix(". …") in said, said


def _wrong(column: str) -> str:
    return f"CREATE INDEX orders_customer ON customers ({column});\n"
