"""What examples/ and docs/coming-from/programs.md say, without the tools themselves, which tests/tools/ runs."""

from __future__ import annotations

import re

import pytest

from benchmarks.examples import ROOT, image, names
from kit.pages import blocks
from tools.examples import EXAMPLES, lines
from tools.install import PINNED, version_of
from tools.test_programs_page import PROJECTS

pytestmark = pytest.mark.text

TWO_LINES = """\
ENV MIGRATION_COMMAND="alembic upgrade head" MIGRATION_COMMAND_INPUTS="alembic/versions"
ENTRYPOINT ["entrypoint", "run", "--"]
"""
NOT_TRIED = {"Flask-Migrate": "it is alembic, under another name"}


def test_each_example_has_a_page_that_says_what_its_image_has() -> None:
    assert {kind.name for kind in EXAMPLES} == set(names())
    index = (ROOT / "README.md").read_text()
    for kind in EXAMPLES:
        folder = ROOT / kind.name
        [shown] = blocks(folder / "README.md", "dockerfile")
        assert shown in (folder / "Dockerfile").read_text(), kind.name
        assert len((folder / "README.md").read_text().splitlines()) < 40, kind.name
        env = image(kind.name).env
        assert f"| `{env['MIGRATION_COMMAND']}` | `{env['MIGRATION_COMMAND_INPUTS']}` |" in index, kind.name


def test_what_is_pinned() -> None:
    """The examples pin versions, and hashes where the client supports them, but never an address."""
    for name, pinned in PINNED.items():
        assert not re.search(r"https?:", (ROOT / name / pinned).read_text()), name
        assert not list((ROOT / name).glob("*lock*")), name
    assert f"goose@v{version_of('pressly/goose/v3')}" in (ROOT / "goose" / "Dockerfile").read_text()


def test_the_table_of_tools_has_what_the_examples_have() -> None:
    """The commands are the same as in their Dockerfiles."""
    have = {(line.command, line.inputs) for line in lines().values()}
    for kind in EXAMPLES:
        env = image(kind.name).env
        assert (env["MIGRATION_COMMAND"], env["MIGRATION_COMMAND_INPUTS"]) in have
        assert kind.table in {line.history for line in lines().values()}


def test_every_line_of_the_table_is_tried_somewhere() -> None:
    tried = {image(kind.name).env["MIGRATION_COMMAND"] for kind in EXAMPLES}
    there = {name for name, line in lines().items() if line.command in tried}
    assert set(lines()) == there | set(PROJECTS) | set(NOT_TRIED)


def test_the_two_lines_are_the_same_wherever_they_are_shown() -> None:
    """The README uses them for an application that has no example."""
    for page in ("README.md", "docs/coming-from/programs.md", "examples/README.md"):
        text = (ROOT.parent / page).read_text()
        assert 'ENV MIGRATION_COMMAND="alembic upgrade head" MIGRATION_COMMAND_INPUTS="alembic/versions"\n' in text, (
            page
        )
